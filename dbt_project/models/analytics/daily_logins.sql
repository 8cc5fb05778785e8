with

user_logins as (

    select * from {{ ref('user_logins') }}

),

-- Each dimension by itself: crossed, most groups would be too small to show.
traits as (

    select
        user_logins.create_date,
        user_logins.user_id,
        trait.dimension,
        trait.dimension_value

    from user_logins

    cross join lateral unnest(
        array['app_version', 'ip_country', 'device_type', 'locale'],
        array[user_logins.app_version, user_logins.ip_country, user_logins.device_type, user_logins.locale]
    ) as trait (dimension, dimension_value)

),

user_groups as (

    select
        create_date,
        dimension,
        dimension_value,
        user_id,
        count(*) as logins

    from traits

    group by create_date, dimension, dimension_value, user_id

),

sized as (

    select
        *,
        count(*) over (partition by create_date, dimension, dimension_value) as group_users

    from user_groups

),

ranked as (

    select
        *,
        dense_rank() over (partition by create_date, dimension order by group_users, dimension_value) as size_rank

    from sized

),

counted_once as (

    select
        *,
        size_rank = min(size_rank) over (partition by create_date, dimension, user_id) as is_first_group_of_user

    from ranked

),

-- How many users the smaller groups have together.
accumulated as (

    select
        *,
        min(group_users) over (partition by create_date, dimension) as smallest_group_users,
        count(*) filter (where is_first_group_of_user) over (
            partition by create_date, dimension
            order by size_rank
            groups between unbounded preceding and 1 preceding
        ) as smaller_groups_users

    from counted_once

),

-- A group below the bound goes into the rest, and so does the next larger one for as long as the rest is below it:
-- a rest of one small group could be had by subtraction from the total.
folded as (

    select
        *,
        smallest_group_users < {{ var('min_group_users') }}
        and least(group_users, smaller_groups_users) < {{ var('min_group_users') }} as is_rest

    from accumulated

),

daily_logins as (

    select
        create_date,
        dimension,
        is_rest,
        case when not is_rest then dimension_value end as dimension_value,
        sum(logins)::bigint as logins,
        count(distinct user_id) as distinct_users

    from folded

    group by create_date, dimension, case when not is_rest then dimension_value end, is_rest

    -- a whole day may have too few
    having count(distinct user_id) >= {{ var('min_group_users') }}

)

select * from daily_logins

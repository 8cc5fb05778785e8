-- No row of daily_logins has fewer users than the bound, and the rows of each date add up to the same logins in every dimension:
-- what one dimension shows less of could be had by subtraction from another.
with

daily_logins as (

    select * from {{ ref('daily_logins') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

published as (

    select
        create_date,
        dimension,
        sum(logins) as logins,
        min(distinct_users) as fewest_users

    from daily_logins

    group by create_date, dimension

),

taken as (

    select
        create_date,
        count(*) as logins

    from user_logins

    group by create_date

)

select
    published.create_date,
    published.dimension

from published

inner join taken on published.create_date = taken.create_date

where
    published.fewest_users < {{ var('min_group_users') }}
    or published.logins <> taken.logins

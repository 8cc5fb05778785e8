with

user_logins as (

    select * from {{ ref('user_logins') }}

),

daily_logins as (

    select
        create_date,
        device_type,
        locale,
        app_version,
        count(*) as logins,
        count(distinct user_id) as distinct_users

    from user_logins

    group by create_date, device_type, locale, app_version

)

select * from daily_logins

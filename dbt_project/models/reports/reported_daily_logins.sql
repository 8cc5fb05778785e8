{{ config(alias='daily_logins') }}

{% set reported_until = "(select coalesce(max(create_date), '-infinity') from " ~ this ~ ")" if is_incremental() else "'-infinity'" %}

with

daily_logins as (

    select * from {{ ref('daily_logins') }}

),

finished_dates as (

    select
        daily_logins.create_date,
        daily_logins.dimension,
        daily_logins.is_rest,
        daily_logins.dimension_value,
        daily_logins.logins,
        daily_logins.distinct_users

    from daily_logins

    where
        daily_logins.create_date < (now() at time zone 'UTC')::date
        and daily_logins.create_date > {{ reported_until }}

)

select * from finished_dates

{{ config(alias='daily_devices') }}

{% set reported_until = "(select coalesce(max(create_date), '-infinity') from " ~ this ~ ")" if is_incremental() else "'-infinity'" %}

with

daily_devices as (

    select * from {{ ref('daily_devices') }}

),

finished_dates as (

    select
        daily_devices.create_date,
        daily_devices.new_devices,
        daily_devices.returning_devices

    from daily_devices

    where
        daily_devices.create_date < (now() at time zone 'UTC')::date
        and daily_devices.create_date > {{ reported_until }}

)

select * from finished_dates

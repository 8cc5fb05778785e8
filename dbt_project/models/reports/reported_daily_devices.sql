{{ config(alias='daily_devices') }}

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
        {% if is_incremental() %}
            and daily_devices.create_date > (select coalesce(max(reported.create_date), '-infinity') from {{ this }} as reported)
        {% endif %}

)

select * from finished_dates

{{ config(alias='daily_logins') }}

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
        {% if is_incremental() %}
            and daily_logins.create_date > (select coalesce(max(reported.create_date), '-infinity') from {{ this }} as reported)
        {% endif %}

)

select * from finished_dates

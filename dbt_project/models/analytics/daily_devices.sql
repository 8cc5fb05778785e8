with

user_logins as (

    select * from {{ ref('user_logins') }}

    where masked_device_id is not null

),

device_days as (

    select
        masked_device_id,
        create_date,
        user_id,
        create_date = min(create_date) over (partition by masked_device_id) as is_new

    from user_logins

),

-- A part below the bound hides the other too, which with the part would give a total.
daily_devices as (

    select
        create_date,
        count(distinct masked_device_id) filter (where is_new) as new_devices,
        count(distinct masked_device_id) filter (where not is_new) as returning_devices

    from device_days

    group by create_date

    having
        count(distinct user_id) filter (where is_new) >= {{ var('min_group_users') }}
        and count(distinct user_id) filter (where not is_new) >= {{ var('min_group_users') }}

)

select * from daily_devices

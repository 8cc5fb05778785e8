with

user_logins as (

    select * from {{ ref('user_logins') }}

),

user_activity as (

    select
        user_id,
        count(*) as logins,
        count(distinct masked_ip) as distinct_ips,
        count(distinct masked_network) as distinct_networks,
        count(distinct masked_device_id) as distinct_devices,
        count(distinct create_date) as active_days,
        {{ sent_at_for_analysts('min(sent_at)') }} as first_login_at,
        {{ sent_at_for_analysts('max(sent_at)') }} as last_login_at

    from user_logins

    group by user_id

)

select * from user_activity

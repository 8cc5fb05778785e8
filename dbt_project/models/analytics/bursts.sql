with

user_logins as (

    select * from {{ ref('user_logins') }}

    where sent_at >= now() - interval '168 hours'

),

identifiers as (

    select
        user_id,
        sent_at,
        'ip' as identifier,
        masked_ip as masked_value

    from user_logins

    union all

    select
        user_id,
        sent_at,
        'device_id' as identifier,
        masked_device_id as masked_value

    from user_logins

),

bursts as (

    select
        identifier,
        masked_value,
        date_bin('5 minutes', sent_at, 'epoch') as began_at,
        count(*) as logins,
        count(distinct user_id) as distinct_users

    from identifiers

    where masked_value is not null

    group by identifier, masked_value, date_bin('5 minutes', sent_at, 'epoch')

    having count(*) >= 10

)

select * from bursts

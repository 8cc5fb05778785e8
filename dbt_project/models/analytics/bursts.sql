with

user_logins as (

    select * from {{ ref('user_logins') }}

    where sent_at >= date_trunc('day', now(), 'UTC') - interval '{{ var("burst_days") }} days'

),

identifiers as (

    select
        user_logins.user_id,
        user_logins.sent_at,
        identifier.identifier,
        identifier.masked_value

    from user_logins

    cross join lateral unnest(
        array['device_id', 'ip'],
        array[user_logins.masked_device_id, user_logins.masked_ip]
    ) as identifier (identifier, masked_value)

    where identifier.masked_value is not null

),

bursts as (

    select
        identifier,
        masked_value,
        date_bin('{{ var("burst_minutes") }} minutes', sent_at, 'epoch') as began_at,
        count(*) as logins,
        count(distinct user_id) as distinct_users

    from identifiers

    group by identifier, masked_value, date_bin('{{ var("burst_minutes") }} minutes', sent_at, 'epoch')

    having count(*) >= {{ var('burst_logins') }}

)

select * from bursts

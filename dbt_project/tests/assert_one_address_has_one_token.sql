-- Under one key version, one canonical ip has one token, and one token stands for one canonical ip. Reads the last
-- var('checked_days') days of plain text and gives out tokens alone.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

fields as (

    select * from {{ source('masking', 'fields') }}

),

-- LIMIT ALL has the planner inline canonical_ip(), which it does only on a plain column: as a function's query its parameter, the
-- address, could be logged.
texts as (

    select
        user_logins.masked_ip,
        staging.event(raw_logins.body) #>> fields.keys as ip

    from raw_logins

    inner join fields on fields.column_name = 'masked_ip'

    inner join user_logins
        on
            raw_logins.message_id = user_logins.message_id
            and raw_logins.sent_at = user_logins.sent_at

    where
        raw_logins.sent_at > now() - interval '{{ var("checked_days") }} days'
        and user_logins.ip_is_valid

    limit all -- noqa: AM09

),

addresses as (

    select distinct
        masked_ip,
        split_part(masked_ip, ':', 1) as key_version,
        masking.canonical_ip(ip) as canonical_ip

    from texts

),

counted as (

    select
        masked_ip,
        count(*) over (partition by key_version, canonical_ip) as tokens_of_the_address,
        count(*) over (partition by masked_ip) as addresses_of_the_token

    from addresses

)

select * from counted
where
    tokens_of_the_address > 1
    or addresses_of_the_token > 1

-- A message that was erased is not in user_logins, not in rejected_logins, and in staging only while it waits for the run that deletes it.
with

erased_messages as (

    select * from {{ source('recovery', 'erased_messages') }}

),

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

unjudged as (

    select * from {{ source('staging', 'unjudged') }}

),

present as (

    select
        message_id,
        sent_at

    from {{ ref('user_logins') }}

    union all

    select
        message_id,
        sent_at

    from {{ ref('rejected_logins') }}

    union all

    select
        raw_logins.message_id,
        raw_logins.sent_at

    from raw_logins

    left outer join unjudged on raw_logins.message_id = unjudged.message_id and raw_logins.sent_at = unjudged.sent_at

    where unjudged.message_id is null

),

back as (

    select present.*

    from present

    inner join erased_messages on present.message_id = erased_messages.message_id and present.sent_at = erased_messages.sent_at

)

select * from back

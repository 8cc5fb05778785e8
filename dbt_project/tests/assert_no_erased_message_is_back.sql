-- A message that was erased is not in user_logins, not in rejected_logins, and not in staging once dbt has taken its transaction.
with

erased_messages as (

    select * from {{ source('recovery', 'erased_messages') }}

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
        message_id,
        sent_at

    from {{ source('staging', 'raw_logins') }}

    where
        landed_xid < (
            select watermarks.taken_before from {{ source('staging', 'watermarks') }} as watermarks
            where watermarks.consumer = 'user_logins'
        )

),

back as (

    select present.*

    from present

    inner join erased_messages on present.message_id = erased_messages.message_id and present.sent_at = erased_messages.sent_at

)

select * from back

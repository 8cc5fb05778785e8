-- Every message on the work list is in raw_logins. One that is not would never be judged: its partition was detached or dropped.
with

unjudged as (

    select * from {{ source('staging', 'unjudged') }}

),

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

)

select unjudged.sent_at

from unjudged

left outer join raw_logins on unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at

where raw_logins.message_id is null

-- Every message sent in the last day is in user_logins, in rejected_logins or on the work list, and not in both of the first two.
-- assert_every_message_is_masked_or_rejected says so of all days.
{{ config(tags=['each_run']) }}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

unjudged as (

    select * from {{ source('staging', 'unjudged') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

places as (

    select
        raw_logins.message_id,
        unjudged.message_id is not null as is_listed,
        masked.message_id is not null as is_masked,
        rejected.message_id is not null as is_rejected

    from raw_logins

    left outer join unjudged on raw_logins.message_id = unjudged.message_id and raw_logins.sent_at = unjudged.sent_at

    -- lateral with a limit: a look-up for each message of the day, and never a pass over the history
    left outer join lateral (
        select user_logins.message_id from user_logins
        where user_logins.message_id = raw_logins.message_id and user_logins.sent_at = raw_logins.sent_at
        limit 1 -- noqa: AM09
    ) as masked on true

    left outer join lateral (
        select rejected_logins.message_id from rejected_logins
        where rejected_logins.message_id = raw_logins.message_id and rejected_logins.sent_at = raw_logins.sent_at
        limit 1 -- noqa: AM09
    ) as rejected on true

    where raw_logins.sent_at > now() - interval '1 day'

)

select * from places
where
    (is_masked and is_rejected)
    or not (is_listed or is_masked or is_rejected)

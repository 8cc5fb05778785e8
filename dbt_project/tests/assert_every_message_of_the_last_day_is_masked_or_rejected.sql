-- Every message sent in the last day that was taken is in user_logins or in rejected_logins, and in one of them only.
-- assert_every_message_is_masked_or_rejected says so of all days.
{{ config(tags=['after_each_run']) }}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

outcomes as (

    select
        raw_logins.message_id,
        masked.message_id is not null as is_masked,
        rejected.message_id is not null as is_rejected

    from raw_logins

    inner join {{ source('staging', 'watermarks') }} as watermarks
        on
            watermarks.consumer = 'rejected_logins'
            and raw_logins.landed_xid < watermarks.taken_before

    -- lateral with a limit: a look-up for each message of the day, and never a pass over the history
    left outer join lateral (
        select user_logins.message_id from {{ ref('user_logins') }} as user_logins
        where user_logins.message_id = raw_logins.message_id
        order by user_logins.message_id
        limit 1
    ) as masked on true

    left outer join lateral (
        select rejected_logins.message_id from {{ ref('rejected_logins') }} as rejected_logins
        where rejected_logins.message_id = raw_logins.message_id
        order by rejected_logins.message_id
        limit 1
    ) as rejected on true

    where raw_logins.sent_at > now() - interval '1 day'

)

select * from outcomes
where is_masked = is_rejected

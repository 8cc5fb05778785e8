{{ config(materialized='view') }}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

watermarks as (

    select * from {{ source('staging', 'watermarks') }}

),

erased_messages as (

    select * from {{ source('recovery', 'erased_messages') }}

),

outcomes as (

    select
        raw_logins.message_id,
        (min(raw_logins.sent_at) at time zone 'UTC')::date as sent_date,
        -- rejected_logins is the last to take a message
        coalesce(bool_or(raw_logins.landed_xid < watermarks.taken_before), false) as is_taken,
        count(user_logins.message_id) > 0 as is_masked,
        count(rejected_logins.message_id) > 0 as is_rejected

    from raw_logins

    left outer join watermarks on watermarks.consumer = 'rejected_logins'
    left outer join user_logins on raw_logins.message_id = user_logins.message_id
    left outer join rejected_logins on raw_logins.message_id = rejected_logins.message_id

    group by raw_logins.message_id

),

daily as (

    select
        sent_date,
        count(*) as still_there,
        count(*) filter (where is_masked) as masked,
        count(*) filter (where is_rejected) as rejected,
        count(*) filter (where not is_masked and not is_rejected and not is_taken) as awaiting,
        count(*) filter (where not is_masked and not is_rejected and is_taken) as lost,
        count(*) filter (where is_masked and is_rejected) as in_both

    from outcomes

    group by sent_date

),

erased as (

    select
        (sent_at at time zone 'UTC')::date as sent_date,
        count(*) as erased

    from erased_messages

    group by (sent_at at time zone 'UTC')::date

),

reconciled as (

    select
        coalesce(daily.sent_date, erased.sent_date) as sent_date,
        coalesce(daily.still_there, 0) + coalesce(erased.erased, 0) as landed,
        coalesce(daily.masked, 0) as masked,
        coalesce(daily.rejected, 0) as rejected,
        coalesce(erased.erased, 0) as erased,
        coalesce(daily.awaiting, 0) as awaiting,
        coalesce(daily.lost, 0) as lost,
        coalesce(daily.in_both, 0) as in_both

    from daily

    full outer join erased on daily.sent_date = erased.sent_date

)

select * from reconciled

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

-- a message that SQS delivered again may be listed twice
unjudged as (

    select distinct
        message_id,
        sent_at

    from {{ source('staging', 'unjudged') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

erased_messages as (

    select * from {{ source('recovery', 'erased_messages') }}

),

-- A message that SQS delivered again may be on the work list and have its outcome, until the next run takes it off.
places as (

    select
        (raw_logins.sent_at at time zone 'UTC')::date as sent_date,
        case
            when user_logins.message_id is not null and rejected_logins.message_id is not null then 'in both'
            when user_logins.message_id is not null then 'masked'
            when rejected_logins.message_id is not null then 'rejected'
            when unjudged.message_id is not null then 'waiting'
            else 'lost'
        end as place

    from raw_logins

    left outer join unjudged on raw_logins.message_id = unjudged.message_id and raw_logins.sent_at = unjudged.sent_at
    left outer join user_logins on raw_logins.message_id = user_logins.message_id and raw_logins.sent_at = user_logins.sent_at
    left outer join rejected_logins
        on raw_logins.message_id = rejected_logins.message_id and raw_logins.sent_at = rejected_logins.sent_at

    union all

    select
        (sent_at at time zone 'UTC')::date as sent_date,
        'erased' as place

    from erased_messages

),

daily as (

    select
        sent_date,
        count(*) as landed,
        count(*) filter (where place = 'masked') as masked,
        count(*) filter (where place = 'rejected') as rejected,
        count(*) filter (where place = 'erased') as erased,
        count(*) filter (where place = 'waiting') as waiting,
        count(*) filter (where place = 'lost') as lost,
        count(*) filter (where place = 'in both') as in_both

    from places

    group by sent_date

)

select * from daily

-- Of the messages sent in the last day that have an outcome, at most var('rejected_warn_percent') in a hundred are rejected; over
-- var('rejected_error_percent') is an error.
{{
    config(
        tags=['each_run'],
        fail_calc='coalesce(max(rejected_percent), 0)',
        warn_if='> ' ~ var('rejected_warn_percent'),
        error_if='> ' ~ var('rejected_error_percent')
    )
}}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

unjudged as (

    select * from {{ source('staging', 'unjudged') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

outcomes as (

    select rejected.message_id is not null as is_rejected

    from raw_logins

    left outer join unjudged on raw_logins.message_id = unjudged.message_id and raw_logins.sent_at = unjudged.sent_at

    -- lateral with a limit: a look-up for each message of the day, and never a pass over the history
    left outer join lateral (
        select rejected_logins.message_id from rejected_logins
        where rejected_logins.message_id = raw_logins.message_id and rejected_logins.sent_at = raw_logins.sent_at
        limit 1 -- noqa: AM09
    ) as rejected on true

    where
        raw_logins.sent_at > now() - interval '1 day'
        and unjudged.message_id is null

)

select ceil(100.0 * count(*) filter (where is_rejected) / count(*))::integer as rejected_percent
from outcomes
having count(*) > 0

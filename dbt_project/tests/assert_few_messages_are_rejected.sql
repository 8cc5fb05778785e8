-- Of the messages sent in the last day, at most var('rejected_warn_percent') in a hundred are rejected; over
-- var('rejected_error_percent') is an error.
{{
    config(
        tags=['after_each_run'],
        fail_calc='coalesce(max(rejected_percent), 0)',
        warn_if='> ' ~ var('rejected_warn_percent'),
        error_if='> ' ~ var('rejected_error_percent')
    )
}}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

judged as (

    select
        raw_logins.message_id,
        rejected.reasons

    from raw_logins

    inner join {{ source('staging', 'watermarks') }} as watermarks
        on
            watermarks.consumer = 'rejected_logins'
            and raw_logins.landed_xid < watermarks.taken_before

    -- lateral with a limit: a look-up for each message of the day, and never a pass over the history
    left outer join lateral (
        select rejected_logins.reasons from {{ ref('rejected_logins') }} as rejected_logins
        where rejected_logins.message_id = raw_logins.message_id
        order by rejected_logins.message_id
        limit 1
    ) as rejected on true

    where raw_logins.sent_at > now() - interval '1 day'

)

select ceil(100.0 * count(reasons) / count(*))::integer as rejected_percent
from judged
having count(*) > 0

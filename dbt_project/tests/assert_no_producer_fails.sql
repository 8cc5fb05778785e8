-- Of the last day's messages of one sender, if 20 or more, at most nine in ten are rejected, however small their share of all messages:
-- a producer that sends nothing right is named. What is shown of a sender is what staging.sender() tells: no value.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
{% call print_findings() %}
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

    where sent_at > now() - interval '1 day'

),

user_logins as (

    select * from {{ ref('user_logins') }}

    where sent_at > now() - interval '1 day'

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

    where sent_at > now() - interval '1 day'

),

rejected as (

    select
        staging.sender(raw_logins.body, raw_logins.attributes) as sender,
        array_to_string(rejected_logins.reasons, ', ') as reasons

    from raw_logins

    inner join rejected_logins on raw_logins.message_id = rejected_logins.message_id and raw_logins.sent_at = rejected_logins.sent_at

    limit all -- noqa: AM09

),

-- 19 are more than nine in ten of 20
suspects as (

    select
        sender,
        count(*) as messages,
        mode() within group (order by reasons) as reasons

    from rejected

    group by sender

    having count(*) >= 19

),

accepted as (

    select staging.sender(raw_logins.body, raw_logins.attributes) as sender

    from raw_logins

    inner join user_logins on raw_logins.message_id = user_logins.message_id and raw_logins.sent_at = user_logins.sent_at

    -- no suspect, nothing to read
    where exists (select from suspects)

    limit all -- noqa: AM09

),

accepted_by_sender as (

    select
        sender,
        count(*) as messages

    from accepted

    group by sender

),

compared as (

    select
        suspects.sender,
        suspects.reasons,
        suspects.messages as rejected_messages,
        suspects.messages + coalesce(accepted_by_sender.messages, 0) as all_messages

    from suspects

    left outer join accepted_by_sender on suspects.sender = accepted_by_sender.sender

)

select
    format('%s of %s messages of one sender are rejected, most often for %s: %s', rejected_messages, all_messages, reasons, sender) as finding

from compared

where
    all_messages >= 20
    and rejected_messages > 0.9 * all_messages

order by rejected_messages desc, sender

limit 20
{% endcall %}

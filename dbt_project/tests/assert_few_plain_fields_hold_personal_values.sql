-- On none of the last var('checked_days') days did a field that is not masked hold an address, an email address, a phone number or
-- what another field holds as personal. A producer sends a value in the wrong place; as the policy has it, the login was rejected or
-- the value masked whole.
-- depends_on: {{ ref('rejected_logins') }}
{{ config(severity='warn') }}
{% call print_findings() %}
with

fields as (

    select * from {{ source('masking', 'fields') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

-- each message once without a column, and once for each column that would have shown a personal value
messages as (

    select
        (rejected_logins.sent_at at time zone 'UTC')::date as sent_date,
        misplaced.column_name

    from rejected_logins

    cross join lateral (
        select null as column_name
        union all
        select fields.column_name from fields
        where fields.column_name is not null and fields.path || '_personal' = any(rejected_logins.reasons)
    ) as misplaced

    where rejected_logins.sent_at > now() - interval '{{ var("checked_days") }} days'

    union all

    select
        user_logins.create_date as sent_date,
        misplaced.column_name

    from user_logins

    cross join lateral (
        select null as column_name
        union all
        select fields.column_name from fields
        where fields.on_personal = 'mask' and to_jsonb(user_logins) ->> fields.column_name ~ '^v[0-9]+:[0-9a-f]{32}$'
    ) as misplaced

    where user_logins.sent_at > now() - interval '{{ var("checked_days") }} days'

),

counted as (

    select
        sent_date,
        column_name,
        count(*) as messages,
        max(count(*)) filter (where column_name is null) over (partition by sent_date) as all_messages

    from messages

    group by sent_date, column_name

)

select
    format(
        '%s: %s of %s messages (%s %%) hold a personal value in %s',
        sent_date,
        to_char(messages, 'FM999,999,999,999'),
        to_char(all_messages, 'FM999,999,999,999'),
        to_char(greatest(0.1, 100.0 * messages / all_messages), 'FM990.0'),
        column_name
    ) as finding

from counted

where column_name is not null

order by sent_date, column_name
{% endcall %}

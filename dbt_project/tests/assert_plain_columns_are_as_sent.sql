-- A column that is not personal holds what was sent, whole: no rule, cast or column has cut it.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
{{ config(tags=['each_run']) }}

with

user_logins as (

    select * from {{ ref('user_logins') }}

),

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

fields as (

    select * from {{ source('masking', 'fields') }}

),

logins as (

    select
        masked.masked_login,
        staging.event(raw_logins.body) as login_event

    from raw_logins

    -- lateral with a limit: a look-up for each message of the day, and never a pass over the history
    inner join lateral (
        select to_jsonb(user_logins) as masked_login from user_logins
        where user_logins.message_id = raw_logins.message_id and user_logins.sent_at = raw_logins.sent_at
        limit 1 -- noqa: AM09
    ) as masked on true

    where raw_logins.sent_at > now() - interval '1 day'

    limit all -- noqa: AM09

),

changed as (

    select fields.column_name

    from logins

    inner join fields on fields.domain is null and fields.lookup is null and logins.masked_login ? fields.column_name

    where
        (logins.masked_login ->> fields.column_name) is distinct from (logins.login_event #>> fields.keys)
        -- a number is compared as one: 1.0 may come back as 1.00
        and (logins.masked_login -> fields.column_name) is distinct from (logins.login_event #> fields.keys)
        -- a personal value in the wrong place, masked whole
        and not (fields.on_personal = 'mask' and logins.masked_login ->> fields.column_name ~ '^v[0-9]+:[0-9a-f]{32}$')

)

select * from changed

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

-- `limit all` (it leaves nothing out) keeps the planner from copying the parse into each expression that uses it;
-- `offset 0` would, too, and would keep parallel workers from all that is done with it.
parsed as (

    select
        raw_logins.message_id,
        raw_logins.sent_at,
        raw_logins.landed_at,
        raw_logins.landed_xid,
        octet_length(raw_logins.body) as body_bytes,
        -- size first: deep nesting raises through pg_input_is_valid() too
        case
            when octet_length(raw_logins.body) <= {{ var('max_body_bytes') }} and pg_input_is_valid(raw_logins.body, 'jsonb')
                then raw_logins.body::jsonb
        end as login_event

    from raw_logins

    where {{ awaits_judgement() }}

    limit all -- noqa: AM09

),

fields as (

    select
        message_id,
        sent_at,
        landed_at,
        landed_xid,
        body_bytes,
        jsonb_typeof(login_event) as event_type,
        login_event ->> 'user_id' as user_id,
        jsonb_typeof(login_event -> 'user_id') as user_id_type,
        login_event ->> 'device_type' as device_type,
        jsonb_typeof(login_event -> 'device_type') as device_type_type,
        login_event ->> 'ip' as ip,
        jsonb_typeof(login_event -> 'ip') as ip_type,
        login_event ->> 'device_id' as device_id,
        jsonb_typeof(login_event -> 'device_id') as device_id_type,
        login_event ->> 'locale' as locale,
        jsonb_typeof(login_event -> 'locale') as locale_type,
        login_event ->> 'app_version' as app_version,
        jsonb_typeof(login_event -> 'app_version') as app_version_type

    from parsed

    limit all -- noqa: AM09

)

select * from fields

{{ config(
    pre_hook=["{{ open_window() }}", "select recovery.purge_erased()"],
    post_hook="{{ close_window() }}"
) }}

with

judged_logins as (

    select * from {{ ref('judged_logins') }}

),

accepted as (

    select
        message_id,
        landed_xid,
        sent_at,
        user_id,
        device_type,
        ip,
        device_id,
        locale,
        app_version,
        -- cast where it is typed, for array_agg() wants arrays of one length
        case when app_version ~ '^[0-9]{1,9}([.][0-9]{1,9})*$' then app_version end as numeric_version,
        -- SQS's ids are random UUIDs: at most 256 batches, and in the order of the key, in which rows are inserted at half the price
        left(message_id, 2) as batch,
        masking.canonical_ip(ip) as canonical_ip

    from judged_logins

    where reasons is null

),

first_landed as (

    -- SQS may deliver twice; the first landing wins
    select distinct on (batch, message_id) *

    from accepted

    order by batch, message_id, landed_xid

),

-- One call of the masker for many rows costs a third of one call for each.
batched as (

    select
        array_agg(user_id) as user_ids,
        array_agg(device_type) as device_types,
        masking.tokens('ip', array_agg(canonical_ip)) as ip_tokens,
        -- what is no address is masked as it is, in a domain of its own: its duplicates can still be found
        masking.tokens('invalid_ip', array_agg(case when canonical_ip is null then ip end)) as invalid_ip_tokens,
        masking.tokens('network', array_agg(masking.network_of_ip(canonical_ip))) as network_tokens,
        masking.tokens('device_id', array_agg(device_id)) as device_id_tokens,
        array_agg(locale) as locales,
        array_agg(app_version) as app_versions,
        array_agg(numeric_version) as numeric_versions,
        array_agg(message_id) as message_ids,
        array_agg(sent_at) as sent_ats,
        array_agg(landed_xid) as landed_xids

    from first_landed

    group by batch

),

-- Each row's values are at the same place in every array, and are taken out side by side.
masked as (

    select
        unnest(user_ids) as user_id,
        unnest(device_types) as device_type,
        unnest(ip_tokens) as ip_token,
        unnest(invalid_ip_tokens) as invalid_ip_token,
        unnest(network_tokens) as masked_network,
        unnest(device_id_tokens) as masked_device_id,
        unnest(locales) as locale,
        unnest(app_versions) as app_version,
        unnest(numeric_versions) as numeric_version,
        unnest(message_ids) as message_id,
        unnest(sent_ats) as sent_at,
        unnest(landed_xids) as landed_xid

    from batched

),

typed as (

    select
        message_id,
        sent_at,
        landed_xid,
        user_id::varchar(128) as user_id,
        device_type::varchar(32) as device_type,
        masked_device_id::varchar(256) as masked_device_id,
        masked_network::varchar(256) as masked_network,
        locale::varchar(32) as locale,
        app_version::varchar(32) as app_version,
        coalesce(ip_token, invalid_ip_token)::varchar(256) as masked_ip,
        (sent_at at time zone 'UTC')::date as create_date,
        ip_token is not null as ip_is_valid,
        string_to_array(numeric_version, '.')::integer[] as app_version_parts

    from masked

)

select * from typed

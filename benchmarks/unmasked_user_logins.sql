{# models/marts/user_logins.sql without its maskers: the ip and the device id as they were sent, in the columns of their tokens. #}
{{ config(
    pre_hook=["{{ open_window() }}", "select recovery.purge_erased()"],
    post_hook="{{ close_window() }}"
) }}

with

judged_logins as (

    select * from {{ ref('judged_logins') }}

),

first_landed as (

    select distinct on (message_id) *

    from judged_logins

    where reasons is null

    order by message_id, landed_xid

),

typed as (

    select
        message_id,
        sent_at,
        landed_xid,
        user_id::varchar(128) as user_id,
        device_type::varchar(32) as device_type,
        device_id::varchar(256) as masked_device_id,
        null::varchar(256) as masked_network,
        locale::varchar(32) as locale,
        app_version::varchar(32) as app_version,
        ip::varchar(256) as masked_ip,
        (sent_at at time zone 'UTC')::date as create_date,
        true as ip_is_valid,
        case
            when app_version ~ '^[0-9]{1,9}([.][0-9]{1,9})*$'
                then string_to_array(app_version, '.')::integer[]
        end as app_version_parts

    from first_landed

)

select * from typed

with

logins as (

    select * from {{ ref('stg_logins') }}

),

accepted as (

    select
        *,
        (sent_at at time zone 'UTC')::date as create_date,
        case when masked_ip is not null then masked_network is not null end as ip_is_valid,
        case
            when app_version ~ '^[0-9]+([.][0-9]+)*$' and app_version !~ '[0-9]{10}'
                then string_to_array(app_version, '.')::integer[]
        end as app_version_parts,
        {{ random_id() }} as login_id

    from logins

    where reasons is null

)

select
    user_id,
    device_type,
    masked_ip,
    masked_device_id,
    locale,
    app_version,
    create_date,
    ip_is_valid,
    masked_network,
    ip_country,
    ip_asn,
    app_version_parts,
    login_id,
    message_id,
    sent_at

from accepted

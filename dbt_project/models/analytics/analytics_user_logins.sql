{{ config(alias='user_logins') }}

with

user_logins as (

    select * from {{ ref('user_logins') }}

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
    app_version_parts

from user_logins

with

stg_logins as (

    select * from {{ ref('stg_logins') }}

),

-- The first fault of a body or of a field is its reason; every field is looked at. A new rule is a new line here.
judged as (

    select
        message_id,
        sent_at,
        landed_at,
        landed_xid,
        user_id,
        device_type,
        ip,
        device_id,
        locale,
        app_version,
        case
            when body_bytes > {{ var('max_body_bytes') }} then 'body_too_large'
            when event_type is null then 'body_not_json'
            when event_type <> 'object' then 'body_not_an_object'
            else nullif(concat_ws(
                ' ',
                case
                    when user_id is null then 'user_id_missing'
                    when user_id_type <> 'string' then 'user_id_not_text'
                    when user_id ~ {{ var('blank') }} then 'user_id_empty'
                    when char_length(user_id) > 128 then 'user_id_too_long'
                end,
                case
                    when device_type is null then 'device_type_missing'
                    when device_type_type <> 'string' then 'device_type_not_text'
                    when device_type ~ {{ var('blank') }} then 'device_type_empty'
                    when char_length(device_type) > 32 then 'device_type_too_long'
                end,
                case
                    when ip is null then 'ip_missing'
                    when ip_type <> 'string' then 'ip_not_text'
                    when ip ~ {{ var('blank') }} then 'ip_empty'
                    when char_length(ip) > 256 then 'ip_too_long'
                end,
                case
                    when device_id is null then 'device_id_missing'
                    when device_id_type <> 'string' then 'device_id_not_text'
                    when device_id ~ {{ var('blank') }} then 'device_id_empty'
                    when char_length(device_id) > 256 then 'device_id_too_long'
                end,
                -- a login without a locale is a login
                case
                    when locale is null then null
                    when locale_type <> 'string' then 'locale_not_text'
                    when locale ~ {{ var('blank') }} then 'locale_empty'
                    when char_length(locale) > 32 then 'locale_too_long'
                end,
                case
                    when app_version is null then 'app_version_missing'
                    when app_version_type <> 'string' then 'app_version_not_text'
                    when app_version ~ {{ var('blank') }} then 'app_version_empty'
                    when char_length(app_version) > 32 then 'app_version_too_long'
                end
            ), '')
        end as reasons

    from stg_logins

)

select * from judged

with

user_logins as (

    select * from {{ ref('user_logins') }}

),

in_order as (

    select
        *,
        -- equal as long as the user's logins carry one version without another between them
        row_number() over (partition by user_id order by sent_at, login_id)
        - row_number() over (partition by user_id, app_version order by sent_at, login_id) as session_number

    from user_logins

),

version_sessions as (

    select
        user_id,
        app_version,
        {{ sent_at_for_analysts('min(sent_at)') }} as first_login_at,
        {{ sent_at_for_analysts('max(sent_at)') }} as last_login_at,
        count(*) as logins

    from in_order

    group by user_id, app_version, session_number

)

select * from version_sessions

with

user_logins as (

    select * from {{ ref('user_logins') }}

),

in_order as (

    select
        *,
        row_number() over (partition by user_id order by sent_at, login_id) as login_number,
        row_number() over (partition by user_id, app_version order by sent_at, login_id) as login_number_in_version

    from user_logins

),

version_sessions as (

    select
        user_id,
        row_number() over (partition by user_id order by min(login_number)) as session_number,
        app_version,
        {{ sent_at_for_analysts('min(sent_at)') }} as first_login_at,
        {{ sent_at_for_analysts('max(sent_at)') }} as last_login_at,
        count(*) as logins

    from in_order

    -- the difference is equal as long as the user's logins carry one version without another between them
    group by user_id, app_version, login_number - login_number_in_version

)

select * from version_sessions

with

user_logins as (

    select * from {{ ref('user_logins') }}

),

rejected_logins as (

    select * from {{ ref('rejected_logins') }}

),

unjudged as (

    select * from {{ source('staging', 'unjudged') }}

),

last_run as (

    select * from {{ source('marts', 'last_run') }}

),

waiting as (

    select
        count(*) as waiting,
        min({{ sent_at_for_analysts() }}) as oldest_waiting_at

    from unjudged

),

newest_login as (

    select max({{ sent_at_for_analysts() }}) as newest_login_at

    from user_logins

),

rejected_today as (

    select count(*) as rejected_today

    from rejected_logins

    where sent_at >= date_trunc('day', now(), 'UTC')

),

freshness as (

    select
        newest_login.newest_login_at,
        waiting.waiting,
        waiting.oldest_waiting_at,
        rejected_today.rejected_today,
        nullif(last_run.began_at, '-infinity') as last_run_at

    from last_run

    cross join newest_login
    cross join waiting
    cross join rejected_today

)

select * from freshness

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

-- a run is over when both models are
last_run_of_both as (

    select nullif(min(ended_at), '-infinity') as last_run_at

    from last_run

),

waiting as (

    select
        count(*) as waiting,
        {{ sent_at_for_analysts('min(sent_at)') }} as oldest_waiting_at

    from unjudged

),

newest_login as (

    select {{ sent_at_for_analysts('max(sent_at)') }} as newest_login_at

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
        last_run_of_both.last_run_at

    from waiting

    cross join newest_login
    cross join last_run_of_both
    cross join rejected_today

)

select * from freshness

with

logins as (

    select * from {{ ref('stg_logins') }}

),

rejected as (

    select
        message_id,
        reasons,
        sent_at,
        landed_at

    from logins

    where reasons is not null

)

select * from rejected

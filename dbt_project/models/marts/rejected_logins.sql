-- After user_logins, which leaves only the rejected messages to read.
-- depends_on: {{ ref('user_logins') }}

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

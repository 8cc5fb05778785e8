-- Every message that was taken is in user_logins or in rejected_logins, and in one of them only:
-- landed = masked + rejected, for each UTC day whose raw messages are still there.
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

outcomes as (

    select message_id from {{ ref('user_logins') }}

    union all

    select message_id from {{ ref('rejected_logins') }}

),

landed as (

    select distinct message_id

    from raw_logins

    where
        landed_xid < (
            select watermarks.taken_before from staging.watermarks
            where watermarks.consumer = 'rejected_logins'
        )

),

counted as (

    select
        landed.message_id,
        count(outcomes.message_id) as outcomes

    from landed

    left outer join outcomes on landed.message_id = outcomes.message_id

    group by landed.message_id

)

select * from counted
where outcomes <> 1

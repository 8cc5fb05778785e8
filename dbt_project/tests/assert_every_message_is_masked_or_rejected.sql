-- Every message that was taken is in user_logins or in rejected_logins, and in one of them only, on each day.
with

daily_reconciliation as (

    select * from {{ ref('daily_reconciliation') }}

)

select * from daily_reconciliation
where
    landed <> masked + rejected + awaiting
    or lost > 0
    or in_both > 0

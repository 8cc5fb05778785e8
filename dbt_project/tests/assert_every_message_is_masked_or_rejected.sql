-- Every message that was taken is in user_logins, in rejected_logins or erased, and in one of them only, on each day.
with

daily_reconciliation as (

    select * from {{ ref('daily_reconciliation') }}

)

select
    sent_date,
    landed,
    masked,
    rejected,
    awaiting,
    lost,
    in_both

from daily_reconciliation

where
    landed <> masked + rejected + erased + awaiting
    or lost > 0
    or in_both > 0

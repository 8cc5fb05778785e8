-- Every landed message is in user_logins, in rejected_logins, erased or on the work list, and in one of them only.
with

daily_reconciliation as (

    select * from {{ ref('daily_reconciliation') }}

)

select
    sent_date,
    lost,
    in_both

from daily_reconciliation

where
    lost > 0
    or in_both > 0

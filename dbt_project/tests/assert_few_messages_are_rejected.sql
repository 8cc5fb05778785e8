-- On no day are more than var('rejected_warn_percent') of the messages rejected; over var('rejected_error_percent') is an error.
{{
    config(
        fail_calc='coalesce(max(rejected_percent), 0)',
        warn_if='> ' ~ var('rejected_warn_percent'),
        error_if='> ' ~ var('rejected_error_percent')
    )
}}

with

daily_reconciliation as (

    select * from {{ ref('daily_reconciliation') }}

),

judged as (

    select
        sent_date,
        rejected,
        masked + rejected as judged

    from daily_reconciliation

)

select
    sent_date,
    ceil(100.0 * rejected / judged)::integer as rejected_percent

from judged

where judged > 0

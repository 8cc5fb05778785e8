-- Of the messages sent in the last day that have an outcome, at most var('rejected_warn_percent') in a hundred are rejected; over
-- var('rejected_error_percent') is an error.
{{
    config(
        tags=['each_run'],
        fail_calc='coalesce(max(rejected_percent), 0)',
        warn_if='> ' ~ var('rejected_warn_percent'),
        error_if='> ' ~ var('rejected_error_percent')
    )
}}

with

outcomes as (

    select false as is_rejected from {{ ref('user_logins') }}
    where sent_at > now() - interval '1 day'

    union all

    select true as is_rejected from {{ ref('rejected_logins') }}
    where sent_at > now() - interval '1 day'

)

select ceil(100.0 * count(*) filter (where is_rejected) / count(*))::integer as rejected_percent
from outcomes
having count(*) > 0

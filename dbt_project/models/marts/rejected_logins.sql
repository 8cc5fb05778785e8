{{ config(pre_hook="{{ open_window('user_logins') }}", post_hook="{{ close_window() }}") }}

with

judged_logins as (

    select * from {{ ref('judged_logins') }}

),

-- user_logins has taken this window: what is left of it broke a rule.
-- depends_on: {{ ref('user_logins') }}
rejected as (

    select distinct on (message_id)
        message_id,
        sent_at,
        landed_at,
        landed_xid,
        -- no reason now: user_logins went by earlier rules; `make rejudge` takes it up again
        string_to_array(coalesce(reasons, 'judged_by_earlier_rules'), ' ') as reasons

    from judged_logins

    order by message_id, landed_xid

)

select * from rejected

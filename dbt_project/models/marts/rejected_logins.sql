{{ config(pre_hook="{{ open_window('user_logins') }}", post_hook="{{ close_window() }}") }}

with

judged_logins as (

    select * from {{ ref('judged_logins') }}

),

-- user_logins has taken this window and left what broke a rule, so its rows need no second judgement.
rejected as (

    select distinct on (message_id)
        message_id,
        sent_at,
        landed_at,
        landed_xid,
        -- it passes now, but was judged before a rule was corrected
        string_to_array(coalesce(reasons, 'judged_by_earlier_rules'), ' ') as reasons

    from judged_logins

    where
        not exists (
            select from {{ ref('user_logins') }} as accepted
            where accepted.message_id = judged_logins.message_id
        )
    {% if is_incremental() %}
            and not exists (
                select from {{ this }} as taken
                where taken.message_id = judged_logins.message_id
            )
        {% endif %}

    order by message_id, landed_xid

)

select * from rejected

-- No login of the last two days carries a field that the masking policy in database/6_fields.sql does not name.
-- The producer sends something new: say what it is, before it is used. Its name is shown where it looks like one (letters and _)
-- and five users share it, because a producer may put a value into a name; other names are counted, and nothing is shown of them.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
{% call print_findings() %}
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

known_fields as (

    select array_agg(distinct keys[1]) as names from {{ source('masking', 'fields') }}

),

-- SQS keeps a message for fourteen days at most, so older partitions cannot have rows that landed now
events as (

    select
        message_id,
        sent_at,
        staging.event(body) as login_event

    from raw_logins

    where
        sent_at > now() - interval '15 days'
        -- more than the day between two runs of this test
        and landed_at > now() - interval '2 days'

    limit all -- noqa: AM09

),

fields_without_policy as (

    select
        field.name,
        count(*) as logins,
        count(distinct user_logins.user_id) as distinct_users

    from events

    inner join user_logins on events.message_id = user_logins.message_id and events.sent_at = user_logins.sent_at

    cross join known_fields

    -- an accepted login is an object
    cross join lateral jsonb_object_keys(events.login_event - known_fields.names) as field (name)

    group by field.name

),

shown as (

    select
        case
            when name ~ '^[A-Za-z_]{1,32}$' and distinct_users >= {{ var('min_group_users') }}
                then name
        end as name,
        logins

    from fields_without_policy

)

select
    case
        when name is not null
            then format('%s logins carry the field %s, and it', sum(logins), name)
        else format('%s times a login carries a field whose name may be a value, so that it is not shown; it', sum(logins))
    end || ' has no masking policy: say in database/6_fields.sql what it is' as finding

from shown

group by name

order by name

limit 20
{% endcall %}

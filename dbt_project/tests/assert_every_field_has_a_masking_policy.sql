-- No message of the last two days carries a field that the masking policy in database/6_fields.sql does not name.
-- The producer sends something new: say what it is, before it is used. Its path is shown where each part looks like a name (letters
-- and _) and five users share it, because a producer may put a value into a name; other paths are counted, and nothing is shown of
-- them. What a rejected message carries counts where five rejected messages carry it: fewer are strays, and stay in quarantine.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
{% call print_findings() %}
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

fields as (

    select * from {{ source('masking', 'fields') }}

),

-- SQS keeps a message for fourteen days at most, so older partitions cannot have rows that landed now
events as (

    select
        message_id,
        sent_at,
        staging.event(body) as event

    from raw_logins

    where
        sent_at > now() - interval '15 days'
        -- more than the day between two runs of this test
        and landed_at > now() - interval '2 days'

    limit all -- noqa: AM09

),

outcomes as (

    select
        message_id,
        sent_at,
        user_id,
        true as is_accepted

    from {{ ref('user_logins') }}

    where sent_at > now() - interval '15 days'

    union all

    select
        message_id,
        sent_at,
        null as user_id,
        false as is_accepted

    from {{ ref('rejected_logins') }}

    where sent_at > now() - interval '15 days'

),

-- an accepted login has no more than one value in a field that is taken, so that nothing is left to look into where all are declared
known_names as (

    select array_agg(distinct path) as names from fields where cardinality(keys) = 1

),

unknown_parts as (

    select
        outcomes.user_id,
        outcomes.is_accepted,
        case when outcomes.is_accepted then events.event - known_names.names else events.event end as part

    from events

    inner join outcomes on events.message_id = outcomes.message_id and events.sent_at = outcomes.sent_at

    cross join known_names

    where
        jsonb_typeof(events.event) = 'object'
        and case when outcomes.is_accepted then events.event - known_names.names else events.event end <> '{}'

    limit all -- noqa: AM09

),

paths_without_policy as (

    select
        leaf.path,
        count(*) as messages,
        count(*) filter (where not unknown_parts.is_accepted) as rejected,
        count(distinct unknown_parts.user_id) as distinct_users

    from unknown_parts

    cross join lateral staging.leaf_paths(unknown_parts.part) as leaf (path)

    where not exists (
        select from fields
        where
            leaf.path = fields.path
            -- all that is below a path that is not taken
            or (fields.column_name is null and (starts_with(leaf.path, fields.path || '.') or starts_with(leaf.path, fields.path || '[')))
    )

    group by leaf.path

),

shown as (

    select
        messages,
        case
            when
                path ~ '^[A-Za-z_]{1,32}([.][A-Za-z_]{1,32}|\[[0-9]{1,4}\])*$'
                and greatest(distinct_users, rejected) >= {{ var('min_group_users') }}
                then path
        end as path

    from paths_without_policy

    where
        messages > rejected
        or rejected >= {{ var('min_group_users') }}

)

select
    case
        when path is not null
            then format('%s messages carry the field %s, and it', sum(messages), path)
        else format('%s times a message carries a field whose name may be a value, so that it is not shown; it', sum(messages))
    end || ' has no masking policy: say in database/6_fields.sql what it is' as finding

from shown

group by path

order by path

limit 20
{% endcall %}

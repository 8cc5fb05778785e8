-- No login of the last two days carries a field that the masking policy in models/staging/sources.yml does not name.
-- The producer sends something new: say what it is, before it is used. Its name is shown where it looks like one (letters and _)
-- and five users share it, for a producer may put a value into a name; other names are counted, and nothing is shown of them.
{%- set raw_logins = graph.sources.values() | selectattr('name', 'equalto', 'raw_logins') | first %}
{%- set known_fields = raw_logins.columns.body.config.meta.fields | join("', '") %}
{% call say_findings() %}
with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

user_logins as (

    select * from {{ ref('user_logins') }}

),

-- SQS keeps a message for fourteen days at most, so older partitions cannot have rows that landed now
bodies as (

    select
        message_id,
        case
            when octet_length(body) <= {{ var('max_body_bytes') }} and pg_input_is_valid(body, 'jsonb')
                then body::jsonb
        end as message_fields

    from raw_logins

    where
        sent_at > now() - interval '15 days'
        -- more than the day between two runs of this test
        and landed_at > now() - interval '2 days'

    offset 0 -- noqa: AM09

),

fields_without_policy as (

    select
        field.name,
        count(*) as logins,
        count(distinct user_logins.user_id) as distinct_users

    from bodies

    inner join user_logins on bodies.message_id = user_logins.message_id

    cross join lateral jsonb_object_keys(
        case
            when jsonb_typeof(bodies.message_fields) = 'object'
                then bodies.message_fields - array['{{ known_fields }}'] -- noqa: LT05
            else '{}'
        end
    ) as field (name)

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
    end || ' has no masking policy: say in models/staging/sources.yml what it is' as finding

from shown

group by name

order by name

limit 20
{% endcall %}

-- No login of the last day carries a field that the masking policy in models/staging/sources.yml does not name.
-- Counts only, for the name of a field may be a value too. The producer sends something new: say what it is, before it is used.
{%- set raw_logins = graph.sources.values() | selectattr('name', 'equalto', 'raw_logins') | first %}
{%- set known_fields = raw_logins.columns.body.config.meta.fields | join("', '") %}
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
        and landed_at > now() - interval '1 day'

    offset 0 -- noqa: AM09

),

fields_without_policy as (

    select count(*) as logins

    from bodies

    inner join user_logins on bodies.message_id = user_logins.message_id

    where
        case
            when jsonb_typeof(bodies.message_fields) = 'object'
                then bodies.message_fields - array['{{ known_fields }}'] <> '{}' -- noqa: LT05
        end

    having count(*) > 0

)

select * from fields_without_policy

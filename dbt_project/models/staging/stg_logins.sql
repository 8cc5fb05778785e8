-- A developer's target takes landed messages of any kind, and leaves production's work list alone.
{%- set source_name = 'unjudged_logins' if target.name == 'production' else 'logins' %}

with

logins as (

    select * from {{ source('staging', source_name) }}

)

select * from logins

limit {{ var('max_messages_per_run') }} -- noqa: AM09

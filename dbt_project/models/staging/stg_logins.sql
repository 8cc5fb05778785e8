-- A developer's target takes landed messages of any kind, and leaves production's work list alone.
{%- set is_production = target.name == 'production' %}

with

logins as (

    select * from {{ source('staging', 'unjudged_logins' if is_production else 'logins') }}

)

-- one column for each declared field
select * from logins -- noqa: AM04

{% if not is_production %}
limit {{ var('max_messages_per_run') }} -- noqa: AM09
{% endif %}

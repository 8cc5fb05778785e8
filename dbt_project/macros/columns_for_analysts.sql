{# The columns of user_logins' contract that its yml does not mark as lineage, in their order. #}
{% macro columns_for_analysts() -%}
    {%- if execute -%}
        {%- set contract = graph.nodes['model.user_logins.user_logins'].columns.values() -%}
        {{ contract | rejectattr('config.meta.lineage') | map(attribute='name') | join(', ') }}
    {%- else -%}
        *
    {%- endif -%}
{%- endmacro %}

{# The columns of user_logins' contract that its yml does not mark as lineage, in their order. #}
{% macro columns_for_analysts() %}
    {%- set names = [] -%}
    {%- if execute -%}
        {%- set contract = graph.nodes['model.user_logins.user_logins'] -%}
        {%- for column in contract.columns.values() if not column.config.meta.lineage -%}
            {%- do names.append(column.name) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(names) }}
{% endmacro %}

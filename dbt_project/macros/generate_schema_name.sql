{# In production a folder of models is a schema of that name; every other target gets schemas of its own, as dbt has it by default. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if target.name == 'production' and custom_schema_name -%}
        {{ custom_schema_name }}
    {%- else -%}
        {{ default__generate_schema_name(custom_schema_name, node) }}
    {%- endif -%}
{%- endmacro %}

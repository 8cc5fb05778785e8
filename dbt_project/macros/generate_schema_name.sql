{# A folder of models is a schema of that name; dbt's own way would prefix it with the target's. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}

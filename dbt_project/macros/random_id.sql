{# A macro, because a unit test can take another in its place. #}
{% macro random_id() -%}
    gen_random_uuid()
{%- endmacro %}

{# A login's time as the views show it. As it is, a condition on it reads only the months and days that it concerns. #}
{% macro sent_at_for_analysts(sent_at='sent_at') -%}
    {%- set precision = var('sent_at_precision') -%}
    {%- if precision == 'milliseconds' -%}
        {{ sent_at }}
    {%- elif precision in ('minute', 'hour') -%}
        date_trunc('{{ precision }}', {{ sent_at }}, 'UTC')
    {%- else -%}
        {%- do exceptions.raise_compiler_error('sent_at_precision is ' ~ precision ~ '; set it to milliseconds, minute or hour') -%}
    {%- endif -%}
{%- endmacro %}

{#
    What makes a model incremental: the window of landed rows that it takes, by transaction id. Opened before the
    model's statement and closed after it, in its transaction; database/4_functions/staging.open_window.sql says why.
#}

{% macro open_window(upstream=none) -%}
    select staging.open_window(
        '{{ this.identifier }}',
        upstream => {{ "'" ~ upstream ~ "'" if upstream else 'null' }},
        restart => {{ not is_incremental() }}
    )
{%- endmacro %}

{% macro in_window() -%}
    landed_xid >= staging.landed_from() and landed_xid < staging.landed_before()
{%- endmacro %}

{% macro close_window() -%}
    select staging.close_window()
{%- endmacro %}

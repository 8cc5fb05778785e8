{#
    The window of landed rows that a model takes, by transaction id: opened before the model's statement and closed
    after it, in its transaction. database/4_functions/staging.open_window.sql says why.
#}

{% macro open_window(upstream=none) -%}
    select staging.open_window(
        '{{ this.identifier }}', upstream => {{ "'" ~ upstream ~ "'" if upstream else 'null' }}
    )
{%- endmacro %}

{#
    The rows of raw_logins to judge. Those in a table already are left out before they are parsed: none is judged
    twice, and rejected_logins parses only what user_logins has left. By name, for a ref would close a circle.
#}
{% macro awaits_judgement() -%}
    raw_logins.landed_xid >= staging.landed_from()
    and raw_logins.landed_xid < staging.landed_before()
    and not exists (
        select from marts.user_logins as accepted
        where accepted.message_id = raw_logins.message_id
    )
    and not exists (
        select from marts.rejected_logins as rejected
        where rejected.message_id = raw_logins.message_id
    )
{%- endmacro %}

{% macro close_window() -%}
    select staging.close_window()
{%- endmacro %}

{# What makes the two models of marts incremental. A developer's target leaves production's work list alone. #}

{#
    Before a model's statement, in its transaction. Runs take turns on the lock, which neither readers nor loaders nor autovacuum
    wait for: it is on the partitioned table alone. Repeatable read, with a snapshot from after the lock: the model sees the messages
    that begin_judging() looked at, and no later ones.
#}
{% macro begin_judging() -%}
    {%- if var('max_messages_per_run') | int < 1 -%}
        {%- set found = var('max_messages_per_run') -%}
        {%- do exceptions.raise_compiler_error('max_messages_per_run is ' ~ found ~ '; set it to a number from 1 on') -%}
    {%- endif -%}
    {%- if target.name == 'production' -%}
        set transaction isolation level repeatable read;
        lock table only marts.rejected_logins in share update exclusive mode;
        select staging.begin_judging({{ var('max_messages_per_run') }}, {{ var('backfill') and this.identifier == 'user_logins' }})
    {%- endif -%}
{%- endmacro %}

{#
    After it, in the same transaction: what now has its outcome leaves the list. begin_judging() has decided whether few messages are
    looked up by key or many are joined, because the planner's estimates are old while a transaction fills these tables. And the time
    of the run is noted.
#}
{% macro end_judging() -%}
    {%- if target.name == 'production' -%}
        delete from staging.unjudged
        where
            current_setting('enable_hashjoin') = 'off'
            and (
                select true from {{ this }} as judged
                where judged.message_id = unjudged.message_id and judged.sent_at = unjudged.sent_at
                limit 1
            );
        delete from staging.unjudged using {{ this }} as judged
        where
            current_setting('enable_hashjoin') = 'on'
            and unjudged.message_id = judged.message_id and unjudged.sent_at = judged.sent_at;
        update marts.last_run set ended_at = clock_timestamp() where model_name = '{{ this.identifier }}'
    {%- endif -%}
{%- endmacro %}

{#
    Operation, called by `make rejudge`: puts every rejected message whose body is still there back on the work list; the next
    `dbt run` judges it by today's rules.
#}
{% macro judge_again() %}
    {% if target.name != 'production' %}
        {% do exceptions.raise_compiler_error('judge_again changes production; run it with --target production') %}
    {% endif %}
    {% call statement('judge_again', fetch_result=True, auto_begin=True) %}
        lock table only marts.rejected_logins in share update exclusive mode;

        with

        taken_back as (

            delete from marts.rejected_logins using staging.raw_logins
            where
                rejected_logins.message_id = raw_logins.message_id
                and rejected_logins.sent_at = raw_logins.sent_at
            returning rejected_logins.message_id, rejected_logins.sent_at

        ),

        listed as (

            insert into staging.unjudged (message_id, sent_at)
            select message_id, sent_at from taken_back

        )

        select count(*) from taken_back
    {% endcall %}
    {% do adapter.commit() %}
    {{ log(load_result('judge_again')['data'][0][0] ~ ' rejected messages await judgement', info=True) }}
{% endmacro %}

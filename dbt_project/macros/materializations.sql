{#
    This project's own ways to fill a table and to replace a view. dbt's go by what dbt saw at its start, write each
    increment twice and rename views to and fro, so that of two runs at once one can fail.
#}

{# Appends the model's rows to its table, which create_tables() made, in one statement and transaction. #}
{% materialization incremental, adapter='postgres' %}
    {%- set table = this.incorporate(type='table') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% do get_assert_columns_equivalent(sql) %}
    {% call statement('main') %}
        insert into {{ table }} ({{ adapter.dispatch('get_column_names', 'dbt')() }})
        {{ get_select_subquery(sql) }}
    {% endcall %}
    {% do persist_docs(table, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [table]}) }}
{% endmaterialization %}

{# Replaces the view in one transaction, one run at a time. #}
{% materialization view, adapter='postgres' %}
    {%- set view = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% call statement('main') %}
        select pg_advisory_xact_lock(hashtextextended('dbt {{ view }}', 0));
        drop view if exists {{ view }};
        -- security_barrier: without it a cheap function of the reader's runs on rows that the view hides
        create view {{ view }} with (security_barrier) as (
            {{ sql }}
        );
    {% endcall %}
    {% do apply_grants(view, config.get('grants'), should_revoke=false) %}
    {% do persist_docs(view, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [view]}) }}
{% endmaterialization %}

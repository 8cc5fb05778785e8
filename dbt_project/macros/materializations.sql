{#
    This project's own ways to fill a table and to replace a view. dbt's go by what dbt saw at its start and rename views
    to and fro, so that of two runs at once one can fail.
#}

{#
    Appends the model's rows to its table, which create_tables() made, in one transaction. Through a temporary table,
    because PostgreSQL reads with parallel workers for CREATE TABLE … AS, and never for INSERT.
#}
{% materialization incremental, adapter='postgres' %}
    {%- set table = this.incorporate(type='table') -%}
    {%- set columns = adapter.dispatch('get_column_names', 'dbt')() -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% do get_assert_columns_equivalent(sql) %}
    {% call statement('increment') %}
        create temporary table increment on commit drop as
        {{ get_select_subquery(sql) }}
    {% endcall %}
    {% call statement('main') %}
        insert into {{ table }} ({{ columns }})
        select {{ columns }} from increment
    {% endcall %}
    {% do persist_docs(table, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [table]}) }}
{% endmaterialization %}

{#
    Replaces the view in one transaction, one run at a time, and only when it is to be another: who drops a view waits for
    all its readers, and whoever comes to read waits behind. What it is to be is told by a temporary view of the same text.
#}
{% materialization view, adapter='postgres' %}
    {%- set view = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {# security_barrier: without it a cheap function of the reader's runs on rows that the view hides #}
    {% call statement('main') %}
        select pg_advisory_xact_lock(hashtextextended('dbt {{ view }}', 0));
        create temporary view wanted with (security_barrier) as (
            {{ sql }}
        )
    {% endcall %}
    {% call statement('compared', fetch_result=True) %}
        select
            count(distinct (relkind, reloptions, pg_get_viewdef(oid))) = 1 and count(*) = 2,
            bool_or(relkind = 'r')
        from pg_class
        where oid in ('pg_temp.wanted'::regclass, to_regclass('{{ view }}'))
    {% endcall %}
    {% set is_same, is_table = load_result('compared')['data'][0] %}
    {% if not is_same %}
        {% call statement('replaced') %}
            drop {{ 'table' if is_table else 'view' }} if exists {{ view }};
            create view {{ view }} with (security_barrier) as (
                {{ sql }}
            )
        {% endcall %}
    {% endif %}
    {% call statement('dropped') %}
        drop view pg_temp.wanted
    {% endcall %}
    {% do apply_grants(view, config.get('grants'), should_revoke=true) %}
    {% do persist_docs(view, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [view]}) }}
{% endmaterialization %}

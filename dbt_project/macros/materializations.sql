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
        select {{ columns }} from pg_temp.increment
    {% endcall %}
    {% do persist_docs(table, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [table]}) }}
{% endmaterialization %}

{#
    Replaces the view in one transaction, one run at a time, and only when it is to be another: who drops a view waits for
    all its readers, and whoever comes to read waits behind. What it is to be, grants included, is told by a temporary view
    of the same text; so what was changed or granted by hand goes.
#}
{% materialization view, adapter='postgres' %}
    {%- set view = this.incorporate(type='view') -%}
    {%- set wanted = api.Relation.create(schema='pg_temp', identifier='wanted', type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {# security_barrier: without it a cheap function of the reader's runs on rows that the view hides #}
    {% call statement('main') %}
        select pg_advisory_xact_lock(hashtextextended('dbt {{ view }}', 0));
        create temporary view wanted with (security_barrier) as (
            {{ sql }}
        )
    {% endcall %}
    {% do apply_grants(wanted, config.get('grants'), should_revoke=false) %}
    {% call statement('compared', fetch_result=True) %}
        with

        views as (

            select
                oid = '{{ wanted }}'::regclass as is_wanted,
                relkind,
                row(
                    relkind,
                    reloptions,
                    coalesce(relacl, acldefault('r', relowner)),
                    array(select attacl::text from pg_attribute where attrelid = pg_class.oid order by attnum),
                    pg_get_viewdef(oid)
                )::text as properties

            from pg_class

            where oid in ('{{ wanted }}'::regclass, to_regclass('{{ view }}'))

        )

        select
            count(*) = 2 and count(distinct properties) = 1,
            min(
                case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' else 'table' end
            ) filter (where not is_wanted)

        from views
    {% endcall %}
    {% set is_same, kind = load_result('compared')['data'][0] %}
    {% if not is_same %}
        {% call statement('replaced') %}
            drop {{ kind or 'view' }} if exists {{ view }};
            create view {{ view }} with (security_barrier) as (
                {{ sql }}
            )
        {% endcall %}
        {% do apply_grants(view, config.get('grants'), should_revoke=false) %}
    {% endif %}
    {% call statement('dropped') %}
        drop view {{ wanted }}
    {% endcall %}
    {% do persist_docs(view, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [view]}) }}
{% endmaterialization %}

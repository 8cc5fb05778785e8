{#
    Makes each incremental model's table from its contract where it is missing, before any model runs. Two first
    runs at once then both find it: dbt looks for tables once, at its start, and the second would make them again.
    A table made anew has taken nothing, so its watermark goes back to the beginning. A column that the contract has
    and the table has not is added; logins that were masked earlier have null in it.
#}
{% macro create_tables() -%}
    {%- if execute -%}
        do $create$
        begin
            perform pg_advisory_xact_lock(hashtextextended('dbt create_tables', 0));
        {%- for model in graph.nodes.values() if model.config.materialized == 'incremental' %}
            {%- set table = api.Relation.create(model.database, model.schema, model.alias, type='table') %}
            {%- set columns = adapter.render_raw_columns_constraints(raw_columns=model.columns) %}
            {%- set parts = columns + adapter.render_raw_model_constraints(raw_constraints=model.constraints) %}
            if to_regclass('{{ table }}') is null then
                create table {{ table }} ({{ parts | join(', ') }});
                {%- for column in model.columns.values() if column.config.meta.kept_out_of_statistics %}
                alter table {{ table }} alter column {{ column.name }} set statistics 0;
                {%- endfor %}
                update staging.watermarks set taken_before = '0' where consumer = '{{ model.alias }}';
            end if;
            {%- for column in model.columns.values() %}
            if not exists (
                select from pg_attribute where attrelid = '{{ table }}'::regclass and attname = '{{ column.name }}'
            ) then
                alter table {{ table }} add column {{ columns[loop.index0] }};
            end if;
            {%- endfor %}
        {%- endfor %}
        end
        $create$;
    {%- endif -%}
{%- endmacro %}

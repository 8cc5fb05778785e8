{#
    dbt's own CREATE VIEW, with security_barrier for this project's views: without it a cheap function of the reader's
    runs on rows that the view hides.
#}
{% macro postgres__create_view_as(relation, sql) -%}
    {%- if model.package_name == 'user_logins' -%}
        create view {{ relation }} with (security_barrier)
        {%- if config.get('contract').enforced %}{{ get_assert_columns_equivalent(sql) }}{% endif %} as (
            {{ sql }}
        );
        {%- if not load_cached_relation(this) %}
        -- there was none when this run began: another first run has made it since, and dbt will rename this one to its name
        drop view if exists {{ this }};
        {%- endif %}
    {%- else -%}
        {{ default__create_view_as(relation, sql) }}
    {%- endif -%}
{%- endmacro %}

{#
    Post-hook of our views. dbt has renamed the view of before and drops it after the commit, with all that somebody built on it.
    This drops it in the transaction and without CASCADE. Where others depend on it, a view that is the same, grants included, is put
    back; one that differs is an error that names them.
#}
{% macro drop_replaced_view() -%}
    {%- set replaced = make_backup_relation(this, 'view') -%}
    do $$
    declare
        dependents text;
    begin
        -- a table that somebody made in the view's place goes as well
        execute format('drop %s if exists {{ replaced }}', (
            select case relkind when 'r' then 'table' when 'm' then 'materialized view' else 'view' end
            from pg_class
            where oid = coalesce(to_regclass('{{ replaced }}'), '{{ this }}'::regclass)
        ));
    exception when dependent_objects_still_exist then
        get stacked diagnostics dependents = pg_exception_detail;
        if (
            select count(distinct (relkind, pg_get_viewdef(oid), reloptions, array(select item::text from unnest(relacl) as item order by 1)))
            from pg_class
            where oid in ('{{ this }}'::regclass, '{{ replaced }}'::regclass)
        ) > 1 then
            raise exception '{{ this }} was not replaced, for others depend on it; drop them, dbt run, and create them again'
                using errcode = 'dependent_objects_still_exist', detail = dependents;
        end if;
        drop view {{ this }};
        alter view {{ replaced }} rename to {{ this.identifier }};
    end
    $$
{%- endmacro %}

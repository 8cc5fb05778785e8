{#
    dbt's own CREATE VIEW, with security_barrier for this project's views: without it a cheap function of the reader's
    runs on rows that the view hides.
#}
{% macro postgres__create_view_as(relation, sql) -%}
    {%- if model.package_name == 'user_logins' -%}
        create view {{ relation }} with (security_barrier) as (
            {{ sql }}
        );
    {%- else -%}
        {{ default__create_view_as(relation, sql) }}
    {%- endif -%}
{%- endmacro %}

{#
    Post-hook of our views. dbt has renamed the view of before and drops it after the commit, with all that somebody built on it.
    This drops it in the transaction and without CASCADE. Where others depend on it, a view that is the same is put back;
    one that differs is an error that names them.
#}
{% macro drop_replaced_view() -%}
    do $$
    begin
        drop view if exists {{ make_backup_relation(this, 'view') }};
    exception when dependent_objects_still_exist then
        if pg_get_viewdef('{{ this }}'::regclass) <> pg_get_viewdef('{{ make_backup_relation(this, 'view') }}'::regclass) then
            raise exception '{{ this }} was not replaced, for other views use it; drop them, dbt run, and create them again'
                using errcode = 'dependent_objects_still_exist';
        end if;
        drop view {{ this }};
        alter view {{ make_backup_relation(this, 'view') }} rename to {{ this.identifier }};
    end
    $$
{%- endmacro %}

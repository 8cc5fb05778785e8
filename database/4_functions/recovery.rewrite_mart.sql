-- recovery.rewrite() for a table of dbt's. Runs as marts_keeper: see database/1_roles.sql.
create or replace function recovery.rewrite_mart(relation regclass)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Analysts whose queries overlap never leave a gap: the rewrite queues behind those that run, and new ones wait behind it.
set lock_timeout = '30s'
as $$
begin
    perform recovery.require_keeper('rewrite_mart');
    perform recovery.rewrite(relation);
end
$$;

alter function recovery.rewrite_mart(regclass) owner to marts_keeper;

comment on function recovery.rewrite_mart(regclass) is 'recovery.rewrite() for a table of dbt''s.';

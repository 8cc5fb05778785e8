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
    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
end
$$;

alter function recovery.rewrite_mart(regclass) owner to marts_keeper;

comment on function recovery.rewrite_mart(regclass) is 'recovery.rewrite() for a table of dbt''s.';

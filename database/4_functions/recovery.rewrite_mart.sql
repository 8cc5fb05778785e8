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
    -- a trigger on dbt's table runs as this function's owner and may have had it run as its caller
    if current_user operator(pg_catalog.!=) 'marts_keeper' then
        raise exception 'rewrite_mart() runs as %, not as marts_keeper: somebody altered it', current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;

    -- at once, for two who have read and both want to write would wait for each other
    execute format('lock table %s in access exclusive mode', relation);
    -- VACUUM FULL would do the same and cannot run in a function; the index keeps the rows in the order in which they landed
    execute format('create index scrub_order on %s (landed_xid)', relation);
    execute format('cluster %s using scrub_order', relation);
    execute format('drop index %I.scrub_order', (
        select pg_class.relnamespace::regnamespace from pg_class where pg_class.oid = relation
    ));
    -- the statistics, too, held values of rows that are gone
    execute format('analyze %s', relation);
end
$$;

alter function recovery.rewrite_mart(regclass) owner to marts_keeper;

comment on function recovery.rewrite_mart(regclass) is 'recovery.rewrite() for a table of dbt''s.';

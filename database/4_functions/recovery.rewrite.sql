-- Writes a partition of staging into a new file, without what was deleted.
create or replace function recovery.rewrite(relation regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
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

comment on function recovery.rewrite(regclass) is 'Writes a table into a new file, in the order of landing and without what was deleted.';

-- Writes a partition's file anew without the rows that were deleted from it, and removes the old file. False when a transaction
-- is still open that may look back at those rows: they were copied then, and it must be done again.
create or replace function recovery.scrub(relation regclass)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    deleted_xid xid;
    clean boolean := true;
begin
    -- the transaction that wrote the row is the one that deleted; after a restore it is the restoring one, which is later
    select scrubs.xmin into deleted_xid from recovery.scrubs where scrubs.relation = scrub.relation for update;
    if not found then
        return true;
    end if;

    if exists (select from pg_class where pg_class.oid = scrub.relation) then
        -- VACUUM FULL would do the same and cannot run in a function
        execute format('cluster %s using %I', scrub.relation, (
            select pg_class.relname from pg_index
            inner join pg_class on pg_index.indexrelid = pg_class.oid
            where pg_index.indrelid = scrub.relation and pg_index.indisprimary
        ));
        execute format('analyze %s', scrub.relation);
        -- after a rewrite, relfrozenxid is the oldest transaction that anyone may look back to
        clean := (select age(pg_class.relfrozenxid) < age(deleted_xid) from pg_class where pg_class.oid = scrub.relation);
    end if;

    if clean then
        delete from recovery.scrubs where scrubs.relation = scrub.relation;
    end if;
    return clean;
end
$$;

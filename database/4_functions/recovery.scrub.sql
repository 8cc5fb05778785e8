-- Writes a relation's file anew without the rows that were deleted from it, and removes the old file. False when a transaction
-- is still open that may look back at those rows: they were copied then, and it must be done again.
create or replace function recovery.scrub(relation regclass)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    to_scrub recovery.scrubs;
    clean boolean;
begin
    select scrubs.* into to_scrub from recovery.scrubs where scrubs.relation = scrub.relation for update;
    if not found then
        return true;
    end if;

    if exists (select from pg_class where pg_class.oid = to_scrub.relation) then
        if to_scrub.relation in (to_regclass('marts.user_logins'), to_regclass('marts.rejected_logins')) then
            perform recovery.rewrite_mart(to_scrub.relation);
        else
            perform recovery.rewrite(to_scrub.relation);
        end if;
        -- after a rewrite, relfrozenxid is the oldest transaction that anyone may look back to
        clean := (
            select age(pg_class.relfrozenxid) < age(to_scrub.deleted_xid::xid)
            from pg_class
            where pg_class.oid = to_scrub.relation
        );
    else
        -- the whole partition has expired since
        clean := true;
    end if;

    if clean then
        delete from recovery.scrubs where scrubs.relation = to_scrub.relation;
    end if;
    return clean;
end
$$;

comment on function recovery.scrub(regclass) is
'Writes a relation''s file anew without its deleted rows; false when it must be done again.';

-- Refuses while a partition is detached, or is being detached: an act would not see its rows.
create or replace function recovery.require_attached()
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    detached constant text := (
        select string_agg(pg_class.relname, ', ' order by pg_class.relname)
        from pg_class
        left join pg_inherits on pg_class.oid = pg_inherits.inhrelid and not pg_inherits.inhdetachpending
        where pg_class.relnamespace in ('staging'::regnamespace, 'marts'::regnamespace)
            and pg_class.relkind = 'r'
            and pg_class.relname ~ '^(raw|user|rejected)_logins_[0-9]+$'
            and pg_inherits.inhrelid is null
    );
begin
    if detached is not null then
        raise exception '% is detached, and this act must see all rows', detached
            using errcode = 'object_not_in_prerequisite_state', hint = 'attach it or drop it, then try again';
    end if;
end
$$;

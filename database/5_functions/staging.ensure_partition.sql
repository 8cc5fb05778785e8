-- Makes one partition of *parent* where it is missing, and attaches one that was detached by hand.
create or replace function staging.ensure_partition(parent regclass, suffix text, first_at timestamptz, next_at timestamptz)
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    partition constant text := (
        select format('%I.%I', relnamespace::regnamespace, relname || '_' || suffix) from pg_class where oid = parent
    );
    column_name text;
begin
    -- looked at again behind the lock that ATTACH takes: others go on inserting, and a second call waits for it
    for attempt in 1 .. 2 loop
        if exists (select from pg_inherits where inhparent = parent and inhrelid = to_regclass(partition) and not inhdetachpending) then
            return;
        end if;
        execute format('lock table only %s in share update exclusive mode', parent);
    end loop;
    -- DETACH … CONCURRENTLY was interrupted
    if exists (select from pg_inherits where inhparent = parent and inhrelid = to_regclass(partition)) then
        execute format('alter table %s detach partition %s finalize', parent, partition);
    end if;

    if to_regclass(partition) is null then
        -- CREATE … PARTITION OF would lock out everyone who inserts
        execute format('create table %s (like %s including all)', partition, parent);
        for column_name in select attname from pg_attribute where attrelid = parent and attnum > 0 and attstattarget = 0 loop
            execute format('alter table %s alter column %I set statistics 0', partition, column_name);
        end loop;
    end if;
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, partition, first_at, next_at);
end
$$;

-- Makes one partition of *parent* where it is missing, and attaches one that was detached by hand.
create or replace function staging.ensure_partition(parent regclass, suffix text, first_at timestamptz, next_at timestamptz)
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    parent_schema constant text := (select relnamespace::regnamespace from pg_class where oid = parent);
    partition constant text := (select relname from pg_class where oid = parent) || '_' || suffix;
    attached_query constant text := format(
        'select exists (select from pg_inherits where inhparent = %L::regclass and inhrelid = to_regclass(%L))',
        parent, format('%I.%I', parent_schema, partition)
    );
    attached boolean;
    column_name text;
begin
    execute attached_query into attached;
    if attached then
        return;
    end if;

    -- the lock that ATTACH takes: others go on inserting, and a second call waits here
    execute format('lock table only %s in share update exclusive mode', parent);
    execute attached_query into attached;
    if attached then
        return;
    end if;

    if to_regclass(format('%I.%I', parent_schema, partition)) is null then
        -- CREATE … PARTITION OF would lock out everyone who inserts
        execute format('create table %I.%I (like %s including all)', parent_schema, partition, parent);
        for column_name in
            select attname from pg_attribute where attrelid = parent and attnum > 0 and attstattarget = 0
        loop
            execute format('alter table %I.%I alter column %I set statistics 0', parent_schema, partition, column_name);
        end loop;
    end if;
    execute format(
        'alter table %s attach partition %I.%I for values from (%L) to (%L)', parent, parent_schema, partition, first_at, next_at
    );
end
$$;

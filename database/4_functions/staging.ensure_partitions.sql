-- Makes the partition of each given UTC date where it is missing. The loader may call it and can create nothing else.
create or replace function staging.ensure_partitions(dates date[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    day date;
    partition text;
begin
    foreach day in array dates loop
        -- in four digits of a year, by which expiry knows a partition's day
        if day not between '0001-01-01' and '9999-12-31' then
            raise exception 'no message was sent in a year before 1 or after 9999' using errcode = 'datetime_field_overflow';
        end if;
        partition := 'raw_logins_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass('staging.' || partition) is not null;
        perform pg_advisory_xact_lock(hashtextextended('staging.ensure_partitions', 0));
        -- asked of the table this time: to_regclass may still remember that there was none before the wait
        continue when exists (select from pg_class where relnamespace = 'staging'::regnamespace and relname = partition);
        -- ATTACH lets other loaders go on inserting; CREATE … PARTITION OF would lock them out.
        execute format('create table staging.%I (like staging.raw_logins including all)', partition);
        execute format('alter table staging.%I alter column body set statistics 0', partition);
        execute format(
            'alter table staging.raw_logins attach partition staging.%I for values from (%L) to (%L)',
            partition, day::timestamptz, (day + 1)::timestamptz
        );
    end loop;
end
$$;

comment on function staging.ensure_partitions(date[]) is 'Makes the partitions of the given UTC dates where they are missing.';

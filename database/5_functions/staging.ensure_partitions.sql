-- Makes the partition of staging.raw_logins for each given UTC date. The loader may call it and can create nothing else.
create or replace function staging.ensure_partitions(dates date[])
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    day date;
begin
    foreach day in array dates loop
        -- expiry knows a partition's day by its name, with four digits for the year
        if day not between '0001-01-01' and '9999-12-31' then
            raise exception 'no message was sent in a year before 1 or after 9999' using errcode = 'datetime_field_overflow';
        end if;
        perform staging.ensure_partition('staging.raw_logins', to_char(day, 'YYYYMMDD'), day::timestamptz, (day + 1)::timestamptz);
    end loop;
end
$$;

-- How many whole days plain text is kept.
create or replace function recovery.set_retention(raw_days integer)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if raw_days >= 14 is not true then
        raise exception 'retention is at least 14 days, as long as SQS may deliver a message again; % was given', raw_days
            using errcode = 'invalid_parameter_value';
    end if;

    update recovery.retention set raw_days = set_retention.raw_days;
    perform recovery.record('retention_set', jsonb_build_object('raw_days', raw_days));
end
$$;

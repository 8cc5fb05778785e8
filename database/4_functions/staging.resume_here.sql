-- Makes the watermarks this server's own, after a dump was restored or pg_upgrade made a new server: they go back to the beginning,
-- and rows with a transaction id that this server has not given out yet land anew. The next run goes through all that is in staging and
-- takes only what is in neither table. Refused where nothing has to be done. Returns the rows that landed anew.
create or replace function staging.resume_here()
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    here constant bigint := (select control.system_identifier from pg_control_system() as control);
    landed_anew bigint;
begin
    perform from staging.watermarks where system_identifier != here for update;
    if not found then
        raise exception 'every watermark is from this server, %; nothing has to be resumed', here
            using errcode = 'object_not_in_prerequisite_state';
    end if;

    update staging.raw_logins set landed_xid = pg_current_xact_id()
    where landed_xid >= pg_snapshot_xmin(pg_current_snapshot());
    get diagnostics landed_anew = row_count;

    update staging.watermarks set taken_before = '0', window_before = '0', system_identifier = here;

    return landed_anew;
end
$$;

comment on function staging.resume_here() is 'Makes the watermarks this server''s own after a restore; returns how many rows landed anew.';

-- Whether a partition holds a message that one of dbt's two models has not taken yet.
create or replace function recovery.has_unjudged(partition regclass)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    taken_before constant xid8 := (
        -- where a model has never run on this server, nothing is taken
        select case when count(*) = 2 then min(watermarks.taken_before::text::numeric)::text::xid8 else '0'::xid8 end
        from staging.watermarks
        where watermarks.consumer in ('user_logins', 'rejected_logins')
            -- another server's transaction ids mean nothing here
            and watermarks.system_identifier = (select control.system_identifier from pg_control_system() as control)
    );
    unjudged boolean;
begin
    execute format('select exists (select from %s where landed_xid >= $1)', partition) into unjudged using taken_before;
    return unjudged;
end
$$;

comment on function recovery.has_unjudged(regclass) is
'Whether a partition of staging.raw_logins holds a message that dbt has not taken yet.';

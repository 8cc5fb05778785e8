-- Opens the window of landed rows that *consumer* takes in this transaction. Overlapping runs wait for one another
-- here, on the consumer's row; the second one starts where the first one ended.
-- The upper bound is the oldest transaction still running, not the newest row seen: a row that commits late has
-- a lower id than rows that committed before it, and a mark on max(id) would step over it for ever.
-- *upstream*: take no more than that consumer has taken.
create or replace function staging.open_window(consumer text, upstream text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    here constant bigint := (select control.system_identifier from pg_control_system() as control);
    mark staging.watermarks;
begin
    insert into staging.watermarks (consumer, system_identifier) values (open_window.consumer, here)
    on conflict do nothing;

    select * into strict mark from staging.watermarks where watermarks.consumer = open_window.consumer for update;

    if mark.system_identifier != here then
        raise exception 'the watermark of % is from server %, and this is server %, whose transaction ids are others; '
            'run dbt run-operation resume_after_restore once, see docs/restoring.md',
            open_window.consumer, mark.system_identifier, here
            using errcode = 'object_not_in_prerequisite_state';
    end if;

    update staging.watermarks set
        window_before = coalesce(
            (select up.taken_before from staging.watermarks as up where up.consumer = open_window.upstream),
            pg_snapshot_xmin(pg_current_snapshot())
        )
    where watermarks.consumer = open_window.consumer;

    perform set_config('staging.consumer', open_window.consumer, true);
end
$$;

comment on function staging.open_window(text, text) is 'Fixes the window of landed rows that a dbt model takes in this transaction.';

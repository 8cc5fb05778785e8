-- Records that the open window has been taken; commits together with the rows that were written from it.
create or replace function staging.close_window()
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update staging.watermarks set taken_before = window_before, taken_at = clock_timestamp()
    where consumer = current_setting('staging.consumer');
end;

comment on function staging.close_window() is 'Records that the window open in this transaction has been taken.';

-- Upper bound of landed_xid (exclusive) in the window that this transaction has open. A function, so that the
-- planner knows the value when it plans.
create or replace function staging.landed_before()
returns xid8
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    bound xid8;
begin
    select window_before into bound from staging.watermarks
    where consumer = current_setting('staging.consumer', true);

    if bound is null then
        raise exception 'no window is open in this transaction; call staging.open_window() first'
            using errcode = 'object_not_in_prerequisite_state';
    end if;

    return bound;
end
$$;

comment on function staging.landed_before() is 'Upper bound, exclusive, of landed_xid in the window that this transaction has open.';

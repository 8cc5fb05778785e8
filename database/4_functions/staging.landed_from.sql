-- Lower bound of landed_xid (inclusive) in the window that this transaction has open. A function, so that the
-- planner knows the value when it plans.
create or replace function staging.landed_from()
returns xid8
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    bound xid8;
begin
    select taken_before into bound from staging.watermarks
    where consumer = current_setting('staging.consumer', true);

    if bound is null then
        raise exception 'no window is open in this transaction; call staging.open_window() first'
            using errcode = 'object_not_in_prerequisite_state';
    end if;

    return bound;
end
$$;

comment on function staging.landed_from() is 'Lower bound, inclusive, of landed_xid in the window that this transaction has open.';

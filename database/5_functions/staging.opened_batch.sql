-- The events in a body that holds several, as a JSON array with each event as it was sent; null for any other body.
create or replace function staging.opened_batch(body text)
returns json language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    opened constant record := staging.open_body(body);
begin
    return case when opened.fault is null and 'batch' = any(opened.envelopes) then opened.content end;
end
$$;

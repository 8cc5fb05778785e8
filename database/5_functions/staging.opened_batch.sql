-- The events in a body that holds several, as a JSON array with each event as it was sent; null in any other body.
create or replace function staging.opened_batch(body text)
returns json language sql stable parallel safe set search_path = pg_catalog, pg_temp
begin atomic
    select opened.content::json
    from staging.open_body(opened_batch.body) as opened
    where opened.fault is null and 'batch' = any(opened.envelopes);
end;

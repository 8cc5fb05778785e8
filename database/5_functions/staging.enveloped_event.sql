-- What staging.event() gives of a body that is not one bare event. A batch is not one event either: staging.split_batches() makes
-- messages of it before dbt reads.
create or replace function staging.enveloped_event(body text)
returns jsonb language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    opened constant record := staging.open_body(body);
begin
    return case
        when opened.fault is not null then to_jsonb(opened.fault)
        when 'batch' = any(opened.envelopes) then '"body_is_batch"'
        else opened.content::jsonb
    end;
end
$$;

-- All that a message says, as text to find a user_id in: its body, and what is inside its envelopes. JSON as jsonb prints it, that is
-- with as few escapes as there can be.
create or replace function recovery.searchable_text(body text)
returns text language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
    opened constant record := staging.open_body(body);
begin
    return (
        select string_agg(case when staging.can_be_jsonb(part.content) then part.content::jsonb::text else part.content end, E'\n')
        from unnest(array[body, nullif(opened.content, body)]) as part (content)
    );
end
$$;

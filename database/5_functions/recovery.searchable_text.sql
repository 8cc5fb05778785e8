-- All that a message says, as text to find a user_id in: its body, and what is inside its envelopes. JSON as jsonb prints it, with as few
-- escapes as there can be. No query, whose plan auto_explain would log with the body.
create or replace function recovery.searchable_text(body text)
returns text language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
    opened constant record := staging.open_body(body);
    content text;
    message text;
begin
    foreach content in array array[body, nullif(opened.content, body)] loop
        message := concat_ws(E'\n', message, case when staging.can_be_jsonb(content) then content::jsonb::text else content end);
    end loop;
    return message;
end
$$;

-- A body as jsonb; null where it is none, whatever it holds. Deep nesting raises even in pg_input_is_valid(), so a body
-- large enough for that is read in a block of its own, which small ones need not pay for.
create or replace function recovery.event(body text)
returns jsonb
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if octet_length(body) <= 8192 then
        if pg_input_is_valid(body, 'jsonb') then
            return body::jsonb;
        end if;
        return null;
    end if;

    begin
        if pg_input_is_valid(body, 'jsonb') then
            return body::jsonb;
        end if;
    exception when statement_too_complex then
        null;
    end;
    return null;
end
$$;

comment on function recovery.event(text) is 'A message body as jsonb; null where it is not JSON or is nested too deeply to be read.';

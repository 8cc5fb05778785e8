-- Whether a message is of *user_id*: a login says so itself; of anything else (cut off, nested, no JSON at all) it is enough
-- that the id stands in it as a word of its own.
create or replace function recovery.names_user(body text, user_id text)
returns boolean
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    event constant jsonb := recovery.event(body);
    hex_of_id constant text := encode(convert_to(user_id, 'UTF8'), 'hex');
    -- the bytes of digits, letters, _ and -
    hex_of_word constant text := '3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a]|2d';
begin
    if jsonb_typeof(event -> 'user_id') in ('string', 'number') then
        return event ->> 'user_id' = user_id;
    end if;

    -- what text cannot hold was landed as the hex digits of its bytes
    if body ~ '^\\x([0-9a-f]{2})*$' then
        return strpos(body, hex_of_id) > 0
            -- in whole bytes, two digits each
            and body ~ format('^\\x(([0-9a-f]{2})*(?!%1$s)[0-9a-f]{2})?%2$s(?!%1$s)', hex_of_word, hex_of_id);
    end if;

    return coalesce(event::text, body)
        ~ ('(^|[^[:alnum:]_-])' || regexp_replace(user_id, '([^[:alnum:]])', '\\\1', 'g') || '($|[^[:alnum:]_-])');
end
$$;

comment on function recovery.names_user(text, text) is 'Whether a message body is of that user, or names the user where it is no login.';

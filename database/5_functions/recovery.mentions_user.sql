-- Whether a message that is no login (cut off, nested, no JSON at all) mentions *user_id*: the id occurs in it as a word.
create or replace function recovery.mentions_user(body text, user_id text)
returns boolean language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
    event constant jsonb := staging.event(body);
    hex_of_id constant text := encode(convert_to(user_id, 'UTF8'), 'hex');
    hex_of_word constant text := '3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a]|2d';
begin
    -- the loader lands what text cannot hold as the hex digits of its bytes
    if body ~ '^\\x([0-9a-f]{2})*$' then
        return strpos(body, hex_of_id) > 0
            and body ~ format('^\\x(([0-9a-f]{2})*(?!%1$s)[0-9a-f]{2})?%2$s(?!%1$s)', hex_of_word, hex_of_id);
    end if;

    return coalesce(event::text, body)
        ~ ('(^|[^[:alnum:]_-])' || regexp_replace(user_id, '([^[:alnum:]])', '\\\1', 'g') || '($|[^[:alnum:]_-])');
end
$$;

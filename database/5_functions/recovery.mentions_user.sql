-- Whether a message that is no login (cut off, nested, no JSON at all) mentions *user_id*: the id occurs as a word in *message*, its
-- recovery.searchable_text().
create or replace function recovery.mentions_user(message text, user_id text)
returns boolean language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
    hex_of_id constant text := encode(convert_to(user_id, 'UTF8'), 'hex');
    hex_of_word constant text := '3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a]|2d';
    -- JSON in a string of JSON has escapes, and more of them the deeper it is: \\", \\t, \\u00e9, \\ud83d\\udc4d
    word constant text := (
        select string_agg(format('(\\*%s|%s%s)', regexp_replace(letter, '([^[:alnum:]])', '\\\1'), escapes.short, escapes.long), '' order by place)
        from regexp_split_to_table(user_id, '') with ordinality as letters (letter, place)
        cross join lateral (
            select
                case when ascii(letter) < 32 then '\\+' || translate(letter, E'\b\t\n\f\r', 'btnfr') || '|' end as short,
                string_agg(format('\\+u(%s|%s)', lpad(to_hex(unit), 4, '0'), upper(lpad(to_hex(unit), 4, '0'))), '') as long
            from unnest(case when ascii(letter) < 65536 then array[ascii(letter)]
                else array[55232 + ascii(letter) / 1024, 56320 + ascii(letter) % 1024] end) as unit
        ) as escapes
    );
begin
    -- the loader lands what text cannot hold as the hex digits of its bytes
    if message ~ '^\\x([0-9a-f]{2})*$' then
        return strpos(message, hex_of_id) > 0
            and message ~ format('^\\x(([0-9a-f]{2})*(?!%1$s)[0-9a-f]{2})?%2$s(?!%1$s)', hex_of_word, hex_of_id);
    end if;

    return message ~ ('(^|[^[:alnum:]_-]|\\+u00[0-2].)' || word || '($|\\+u00[0-2]|(?!\\+u)[^[:alnum:]_-])');
end
$$;

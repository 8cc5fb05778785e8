-- What is wrong with one field of an event, as the reason of a rejection; null where nothing is. One rule a line.
create or replace function masking.fault(event jsonb, field text, is_required boolean, max_length integer)
returns text language sql immutable parallel safe
return field || case
    -- what nearly every field is: a short text with a printable first letter
    when
        ascii(event ->> field) between 33 and 126 and char_length(event ->> field) <= max_length
        and jsonb_typeof(event -> field) = 'string' then null
    when coalesce(jsonb_typeof(event -> field), 'null') = 'null' then case when is_required then '_missing' end
    when jsonb_typeof(event -> field) <> 'string' then '_not_text'
    -- spaces of ASCII, no-break, ideographic, zero width and the byte order mark
    when btrim(event ->> field, E' \t\n\u000b\f\r\u00a0\u3000\u200b\ufeff') = '' then '_empty'
    when char_length(event ->> field) > max_length then '_too_long'
end;

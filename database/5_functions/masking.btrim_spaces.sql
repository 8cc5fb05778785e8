-- A text without the white space around it: that of ASCII, no-break, ideographic and zero width spaces and the byte order mark.
create or replace function masking.btrim_spaces(value text)
returns text language sql immutable strict parallel safe
return btrim(value, E' \t\n\u000b\f\r\u00a0\u3000\u200b\ufeff');

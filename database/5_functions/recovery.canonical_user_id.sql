-- A user_id without the white space around it that a producer or a list may have added.
create or replace function recovery.canonical_user_id(user_id text)
returns text language sql immutable strict parallel safe
return btrim(user_id, E' \t\n\u000b\f\r\u00a0\u3000\u200b\ufeff');

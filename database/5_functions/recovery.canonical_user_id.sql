-- A user_id without the white space around it that a producer or a list may have added.
create or replace function recovery.canonical_user_id(user_id text)
returns text language sql immutable strict parallel safe
return masking.btrim_spaces(user_id);

-- What a tombstone keeps of a person: the token of their user_id, without white space around it, under a key that never rotates.
create or replace function recovery.person_token(text)
returns text language sql stable strict set search_path = pg_catalog, pg_temp
begin atomic
    select masking.token(keys.version, keys.inner_block, keys.outer_block, recovery.canonical_user_id($1))
    from masking.keys
    where keys.domain = 'erased_user';
end;

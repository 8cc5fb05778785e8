-- Makes the next key version of a domain inside the server. The key is SHA-256 over four random UUIDs
-- (4 x 122 bits from the server's strong random source), so that it needs no extension.
create or replace function masking.create_key(domain text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
-- as in masking.tokens(): no plan that holds the key as a constant
set plan_cache_mode = force_generic_plan
as $$
declare
    key constant bytea := sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    );
    next_version constant integer := (
        select coalesce(max(keys.version), 0) + 1 from masking.keys where keys.domain = create_key.domain
    );
begin
    insert into masking.keys (domain, version, inner_block, outer_block)
    values (create_key.domain, next_version, masking.hmac_block(key, 54), masking.hmac_block(key, 92));
    return next_version;
end
$$;

comment on function masking.create_key(text) is 'Makes the next key version of a domain; returns its number. For the owner only.';

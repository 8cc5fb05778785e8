-- Gives a domain a key, made inside the server: SHA-256 over four random UUIDs
-- (4 x 122 bits from the server's strong random source), so that it needs no extension.
create or replace function masking.create_key(domain text, version integer default 1)
returns void language plpgsql set search_path = pg_catalog, pg_temp
-- no plan that holds the key as a constant, which the caller's debug_print_plan would print
set plan_cache_mode = force_generic_plan
as $$
declare
    key constant bytea := sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    );
begin
    insert into masking.keys (domain, version, inner_block, outer_block)
    values (create_key.domain, create_key.version, masking.hmac_block(key, 54), masking.hmac_block(key, 92));
end
$$;

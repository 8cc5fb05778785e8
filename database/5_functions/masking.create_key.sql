-- Gives a domain a new key, made inside the server, and destroys the one before: SHA-256 over four random UUIDs
-- (4 x 122 bits from the server's strong random source), so that it needs no extension.
create or replace function masking.create_key(domain text)
returns integer language plpgsql set search_path = pg_catalog, pg_temp
-- no plan that holds the key as a constant, which the caller's debug_print_plan would print
set plan_cache_mode = force_generic_plan
as $$
declare
    key constant bytea := sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    );
    new_version integer;
begin
    insert into masking.keys as previous (domain, version, inner_block, outer_block)
    values (create_key.domain, 1, masking.hmac_block(key, 54), masking.hmac_block(key, 92))
    on conflict on constraint keys_pkey do update set
        version = previous.version + 1,
        inner_block = excluded.inner_block,
        outer_block = excluded.outer_block,
        created_at = excluded.created_at
    returning version into new_version;
    return new_version;
end
$$;

-- masking.tokens() under the keys that a rotation in progress changes to.
create or replace function recovery.next_tokens(domain text, plain_values text[])
returns text[]
language plpgsql
stable
strict
set search_path = pg_catalog, pg_temp
-- A plan for these very arguments would hold the key as a constant.
set plan_cache_mode = force_generic_plan
as $$
declare
    key masking.keys;
begin
    select next_keys.* into strict key from recovery.next_keys where next_keys.domain = next_tokens.domain;

    return array(
        select
            'v' || key.version || ':' || encode(
                substr(masking.hmac_sha256(key.inner_block, key.outer_block, convert_to(unnest(plain_values), 'UTF8')), 1, 16), 'hex'
            )
    );
end
$$;

comment on function recovery.next_tokens(text, text[]) is 'The tokens that values will have after the rotation in progress.';

-- The tokens of many values, in their order: 'v<key version>:' and the first 128 bits of HMAC-SHA-256 as 32 hex digits.
-- Equal values of a domain get equal tokens under one key version, and nothing can be computed back without the key.
-- Who may call this can try out guesses, and so build a dictionary: dbt's role may, a reader's role must not.
-- Set-based because the price of a call (change of user, look-up of the key) is then paid once, not per value.
-- STABLE, not IMMUTABLE: the planner would fold an immutable call into the plan, where EXPLAIN shows it.
create or replace function masking.tokens(domain text, plain_values text[])
returns text[]
language plpgsql
stable
strict
parallel safe
security definer
set search_path = pg_catalog, pg_temp
-- A plan for these very arguments holds the key as a constant, and the caller's debug_print_plan would print it.
set plan_cache_mode = force_generic_plan
as $$
declare
    key masking.keys;
    version_mark text;
begin
    select keys.* into key from masking.keys
    where keys.domain = tokens.domain
    order by keys.version desc
    limit 1;

    if not found then
        raise exception 'no masking key for domain %; add it to database/5_keys.sql and run python -m loader migrate', domain
            using errcode = 'no_data_found';
    end if;

    version_mark := 'v' || key.version || ':';
    -- unnest() here and not in FROM: nothing is stored on the way, and nothing can change the order
    return array(
        select
            version_mark || encode(
                substr(masking.hmac_sha256(key.inner_block, key.outer_block, convert_to(unnest(plain_values), 'UTF8')), 1, 16), 'hex'
            )
    );
end
$$;

comment on function masking.tokens(text, text[]) is 'Tokens of many values of one domain, in their order; null for null.';

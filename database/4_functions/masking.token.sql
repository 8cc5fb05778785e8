-- The token of one value; see masking.tokens().
create or replace function masking.token(domain text, plain_value text)
returns text
language plpgsql
stable
strict
parallel safe
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (masking.tokens(domain, array[plain_value]))[1];
end
$$;

comment on function masking.token(text, text) is 'Token of one value of a domain, such as v1:9f86d081884c7d659a2feaa0c55ad015.';

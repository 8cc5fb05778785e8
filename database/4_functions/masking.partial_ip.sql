-- An address for reading, its host part struck out: 192.0.2.x, 2001:db8:1::x. Not identifying (a whole network shares it)
-- and not secret (it says which network): masked_ip is for joining, this is for the eye of somebody who holds the plain text.
create or replace function masking.partial_ip(value text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(regexp_replace(masking.network_of_ip(masking.canonical_ip(value)), '(0/24|/48)$', 'x'), 'x');
end
$$;

comment on function masking.partial_ip(text) is
'Address with its host part struck out (192.0.2.x); x for what is no address. For reading: neither identifying nor secret.';

-- The network that an address belongs to, in CIDR notation: /24 for IPv4, and /48 for IPv6, which is what one site
-- is given at most (RFC 6177). Null for what is no address. Plain text: mask it in the domain 'network'.
create or replace function masking.network_of_ip(value text)
returns text language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    address constant text := masking.canonical_ip(value);
begin
    return case
        when strpos(address, ':') = 0 then rtrim(address, '0123456789') || '0/24'
        when address is not null then network(set_masklen(address::inet, 48))::text
    end;
end
$$;
comment on function masking.network_of_ip(text) is 'The /24 of an IPv4 address, the /48 of an IPv6 address; null for what is no address.';

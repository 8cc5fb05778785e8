-- The network that an address belongs to, in CIDR notation: /24 for IPv4, and /48 for IPv6, which is what one site is given at most
-- (RFC 6177). Of an address as canonical_ip() spells it; null for other text. Plain text: mask it in the domain 'network'.
-- STABLE and not STRICT: the planner inlines it. concat() keeps it from trying the cast, whose error prints the value.
create or replace function masking.network_of_ip(value text)
returns text language sql stable parallel safe
return case
    when strpos(value, ':') = 0 then rtrim(value, '0123456789') || '0/24'
    when pg_input_is_valid(value, 'inet') then network(set_masklen(concat(value)::inet, 48))::text
end;

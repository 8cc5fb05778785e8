-- The network that an address belongs to, in CIDR notation, of *length* bits for IPv4 and *length_6* bits for IPv6. A /48 is what one
-- site is given at most, a /64 one link (RFC 6177). Of an address as canonical_ip() spells it, or null; of other text the result means
-- nothing. Plain text: mask it in a domain of its own. STABLE and not STRICT: the planner inlines it. concat() keeps it from trying the
-- cast, whose error prints the value.
create or replace function masking.network_of_ip(value text, length integer, length_6 integer)
returns text language sql stable parallel safe
return case
    when strpos(value, ':') = 0 and length = 24 then rtrim(value, '0123456789') || '0/24'
    when pg_input_is_valid(value, 'inet')
        then network(set_masklen(concat(value)::inet, case when strpos(value, ':') = 0 then length else length_6 end))::text
end;

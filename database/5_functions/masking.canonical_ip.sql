-- One spelling per address: lower case, zeros compressed as RFC 5952 (section 4), an IPv4-mapped IPv6 address (RFC 4291, section
-- 2.5.5.2) as IPv4. Null for what is no single address: a network, a port, a zone, a full stop behind it, or leading zeros in dotted
-- form, which some read as octal (RFC 6943, section 3.1.1).
-- One expression, STABLE and not STRICT, so that the planner inlines it. concat() keeps the planner from trying the cast, whose error
-- prints the value.
create or replace function masking.canonical_ip(value text)
returns text language sql stable parallel safe
return case
    -- AND looks at its other side after a null, which would be the cast of nothing
    when value is null then null
    -- as most are sent
    when pg_input_is_valid(value, 'inet') and host(concat(value)::inet) = value and not starts_with(value, '::') then value
    when
        pg_input_is_valid(btrim(value, E' \t\r\n'), 'inet') and strpos(value, '/') = 0
        and not (strpos(value, '.') > 0 and btrim(value, E' \t\r\n') ~ '(^|[.:])0[0-9]+(\.|$)|\.$')
        then regexp_replace(host(concat(btrim(value, E' \t\r\n'))::inet), '^::ffff:(?=[0-9]+\.)', '')
end;

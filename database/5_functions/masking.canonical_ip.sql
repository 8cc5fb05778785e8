-- One spelling per address: lower case, zeros compressed as RFC 5952 (section 4), an IPv4-mapped IPv6 address (RFC 4291, section
-- 2.5.5.2) as IPv4. Null for what is no single address: a network, a port, a zone, a full stop behind it, or leading zeros in dotted
-- form, which some read as octal (RFC 6943, section 3.1.1). In plpgsql: in SQL the planner may try the cast, whose error prints the value.
create or replace function masking.canonical_ip(value text)
returns text language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    trimmed constant text := btrim(value, E' \t\r\n');
    spelled text;
begin
    if not pg_input_is_valid(trimmed, 'inet') then
        return null;
    end if;

    spelled := host(trimmed::inet);
    if spelled = trimmed and not starts_with(spelled, '::') then
        return spelled;
    end if;

    if strpos(trimmed, '/') > 0 or (strpos(trimmed, '.') > 0 and trimmed ~ '(^|[.:])0[0-9]+(\.|$)|\.$') then
        return null;
    end if;

    return regexp_replace(spelled, '^::ffff:(?=[0-9]+\.)', '');
end
$$;

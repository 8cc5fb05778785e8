-- An address as a number of 128 bits: what sorts and compares fastest. An IPv4 address is one of ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
create or replace function masking.ip_number(address inet)
returns uuid language sql immutable parallel safe
return (
    case family(address) when 4 then '00000000000000000000ffff' else '' end || substr(encode(inet_send(address), 'hex'), 9)
)::uuid;

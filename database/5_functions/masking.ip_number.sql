-- An address as a number of 128 bits, an IPv4 address in its last 32: what sorts and compares fastest.
create or replace function masking.ip_number(address inet)
returns uuid language sql immutable parallel safe
return lpad(substr(encode(inet_send(address), 'hex'), 9), 32, '0')::uuid;

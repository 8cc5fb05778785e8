-- The *width* bits (at most 16) of a DEFLATE stream from bit *place* on, as a number: bits are counted from the lowest of each byte.
-- Inlined. It reads three bytes, which must be there.
create or replace function staging.read_bits(bytes bytea, place integer, width integer)
returns integer language sql immutable parallel safe
return (
    (get_byte(bytes, place / 8) | (get_byte(bytes, place / 8 + 1) << 8) | (get_byte(bytes, place / 8 + 2) << 16)) >> (place % 8)
) & ((1 << width) - 1);

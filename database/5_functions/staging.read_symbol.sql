-- The symbol whose code stands at bit *place*, * 16 + its code's length; null where no code does. *starts* and *symbols* are of
-- staging.huffman_code(). *turned* are the stream's bytes with their bits turned round, because a code begins with its highest bit.
-- Inlined. It reads three bytes, which must be there.
create or replace function staging.read_symbol(turned bytea, place integer, starts integer[], symbols integer[])
returns integer language sql immutable parallel safe
return symbols[width_bucket(
    (
        ((get_byte(turned, place / 8) << 16) | (get_byte(turned, place / 8 + 1) << 8) | get_byte(turned, place / 8 + 2))
        >> (9 - place % 8)
    ) & 32767,
    starts
)];

-- The canonical Huffman code of *lengths*, the length of each symbol's code (RFC 1951, section 3.2.2), for staging.read_symbol(): where
-- each code begins among the numbers of 15 bits, and where the codes end; and each symbol * 16 + the length of its code. No *starts*
-- where the lengths make no code that zlib takes: complete, of one bit, or empty. No query, whose plan auto_explain would log.
create or replace function staging.huffman_code(lengths integer[], out starts integer[], out symbols integer[])
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    counts integer[] := array_fill(0, array[16]); -- of the codes of each length, from 0
    next_starts integer[] := '{}';
    next_places integer[] := '{}';
    start integer := 0;
    place integer := 1;
    length integer;
begin
    foreach length in array lengths loop
        counts[length + 1] := counts[length + 1] + 1;
    end loop;
    for length in 1..15 loop
        next_starts[length] := start;
        next_places[length] := place;
        start := start + (counts[length + 1] << (15 - length));
        place := place + counts[length + 1];
    end loop;
    if start not in (0, 32768) and (start <> 16384 or place <> 2) then
        return;
    end if;

    starts := array_fill(start, array[place]);
    symbols := array_fill(0, array[place]);
    symbols[place] := null;
    for symbol in 0..cardinality(lengths) - 1 loop
        length := lengths[symbol + 1];
        if length > 0 then
            place := next_places[length];
            starts[place] := next_starts[length];
            symbols[place] := symbol * 16 + length;
            next_starts[length] := next_starts[length] + (32768 >> length);
            next_places[length] := place + 1;
        end if;
    end loop;
end
$$;

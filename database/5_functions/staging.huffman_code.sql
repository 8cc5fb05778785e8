-- The canonical Huffman code of *lengths*, the length of each symbol's code (RFC 1951, section 3.2.2), for staging.read_symbol(): where
-- each symbol's codes begin among the numbers of 15 bits, and behind them what no code begins with; and each symbol * 16 + its code's
-- length. Null where the lengths make no code that zlib takes: complete, of one bit, or empty.
create or replace function staging.huffman_code(lengths integer[], out starts integer[], out symbols integer[])
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    used integer;
begin
    select
        array_agg(code.used - (32768 >> code.length) order by code.length, code.symbol),
        array_agg(code.symbol * 16 + code.length order by code.length, code.symbol),
        coalesce(max(code.used), 0)
    into starts, symbols, used
    from (
        select
            given.length,
            given.place::integer - 1 as symbol,
            (sum(32768 >> given.length) over (order by given.length, given.place))::integer as used
        from unnest(lengths) with ordinality as given (length, place)
        where given.length > 0
    ) as code;
    starts := case when used in (0, 32768) or (used = 16384 and lengths <@ '{0,1}') then starts || used end;
end
$$;

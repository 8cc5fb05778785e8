-- The content of a gzip file (RFC 1952, RFC 1951). Null where it is damaged, cut off, more than one member, or of more than 1 MiB, which
-- is more than SQS takes. It raises no error: what is read ahead of a check is at most the 8 bytes of the trailer. No query, whose plan
-- auto_explain would log.
create or replace function staging.gunzip(compressed bytea)
returns bytea language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    length_starts constant integer[] := '{3,4,5,6,7,8,9,10,11,13,15,17,19,23,27,31,35,43,51,59,67,83,99,115,131,163,195,227,258}';
    length_widths constant integer[] := '{0,0,0,0,0,0,0,0,1,1,1,1,2,2,2,2,3,3,3,3,4,4,4,4,5,5,5,5,0}';
    distance_starts constant integer[] := '{1,2,3,4,5,7,9,13,17,25,33,49,65,97,129,193,257,385,513,769,1025,1537,2049,3073,4097,6145,'
        '8193,12289,16385,24577}';
    distance_widths constant integer[] := '{0,0,0,0,1,1,2,2,3,3,4,4,5,5,6,6,7,7,8,8,9,9,10,10,11,11,12,12,13,13}';
    order_of_lengths constant integer[] := '{16,17,18,0,8,7,9,6,10,5,11,4,12,3,13,2,14,1,15}';
    -- the CRC-32 of each four bits
    checks constant bigint[] := '{0,498536548,997073096,651767980,1994146192,1802195444,1303535960,1342533948,3988292384,4027552580,'
        '3604390888,3412177804,2607071920,2262029012,2685067896,3183342108}';
    trailer constant integer := octet_length(compressed) - 8;
    turned bytea;
    size bigint;
    flags integer;
    place integer := 10; -- of the next byte of the header, then of the next bit
    block integer;
    literals integer; -- codes of bytes and of lengths
    distances integer; -- codes of distances
    lengths integer[]; -- of all these codes
    code record;
    distance_code record;
    symbol integer;
    width integer;
    times integer;
    distance integer;
    content integer[] := '{}'; -- a number a byte, because a bytea would be copied for each
    written integer := 0;
    remainder bigint := 4294967295;
    digits text := '';
    inflated bytea := '';
begin
    if trailer < 11 or substr(compressed, 1, 3) <> '\x1f8b08' or get_byte(compressed, 3) > 31 then
        return null;
    end if;
    flags := get_byte(compressed, 3);
    size := get_byte(compressed, trailer + 4) + 256 * get_byte(compressed, trailer + 5)
        + 65536 * (get_byte(compressed, trailer + 6) + 256::bigint * get_byte(compressed, trailer + 7));
    if size > 1048576 then
        return null;
    end if;

    if flags & 4 > 0 then -- extra fields
        place := place + 2 + staging.read_bits(compressed, 80, 16);
    end if;
    for number in 1..(flags >> 3 & 1) + (flags >> 4) loop -- the file's name, a comment
        if position('\x00'::bytea in substr(compressed, place + 1)) = 0 then
            return null;
        end if;
        place := place + position('\x00'::bytea in substr(compressed, place + 1));
    end loop;
    place := 8 * (place + (flags & 2)); -- behind a checksum of the header
    turned := decode(
        regexp_replace(translate(encode(compressed, 'hex'), '0123456789abcdef', '084c2a6e195d3b7f'), '(.)(.)', '\2\1', 'g'), 'hex'
    );

    loop
        if place + 3 > 8 * trailer then
            return null;
        end if;
        block := staging.read_bits(compressed, place, 3);
        place := place + 3;

        if block >> 1 = 0 then -- stored
            place := (place + 7) / 8 + 4;
            if place > trailer then
                return null;
            end if;
            times := staging.read_bits(compressed, 8 * place - 32, 16);
            if times + staging.read_bits(compressed, 8 * place - 16, 16) <> 65535 or place + times > trailer or written + times > size then
                return null;
            end if;
            for number in 1..times loop
                content[written + number] := get_byte(compressed, place + number - 1);
            end loop;
            written := written + times;
            place := 8 * (place + times);
            exit when block & 1 = 1;
            continue;
        end if;

        if block >> 1 = 1 then -- in the fixed code
            literals := 288;
            lengths := array_fill(8, array[144]) || array_fill(9, array[112]) || array_fill(7, array[24]) || array_fill(8, array[8])
                || array_fill(5, array[32]);
        else -- in a code that stands before it, whose lengths are in a code too
            literals := 257 + staging.read_bits(compressed, place, 5);
            distances := 1 + staging.read_bits(compressed, place + 5, 5);
            times := 4 + staging.read_bits(compressed, place + 10, 4);
            place := place + 14;
            if block >> 1 = 3 or literals > 286 or distances > 30 or place + 3 * times > 8 * trailer then
                return null;
            end if;
            lengths := array_fill(0, array[19]);
            for number in 1..times loop
                lengths[order_of_lengths[number] + 1] := staging.read_bits(compressed, place, 3);
                place := place + 3;
            end loop;
            code := staging.huffman_code(lengths);
            lengths := '{}';
            while cardinality(lengths) < literals + distances loop
                symbol := staging.read_symbol(turned, place, code.starts, code.symbols);
                place := place + (symbol & 15);
                symbol := symbol >> 4;
                if symbol is null or place > 8 * trailer or (symbol = 16 and lengths = '{}') then
                    return null;
                end if;
                if symbol < 16 then
                    lengths := lengths || symbol;
                else -- the last length again, or zeros
                    width := (array[2, 3, 7])[symbol - 15];
                    lengths := lengths || array_fill(
                        case when symbol = 16 then lengths[cardinality(lengths)] else 0 end,
                        array[case when symbol = 18 then 11 else 3 end + staging.read_bits(compressed, place, width)]
                    );
                    place := place + width;
                end if;
            end loop;
            if cardinality(lengths) > literals + distances then
                return null;
            end if;
        end if;

        code := staging.huffman_code(lengths[:literals]);
        distance_code := staging.huffman_code(lengths[literals + 1:]);
        loop
            symbol := staging.read_symbol(turned, place, code.starts, code.symbols);
            place := place + (symbol & 15);
            symbol := symbol >> 4;
            exit when symbol = 256;
            if symbol is null or place > 8 * trailer or written >= size then
                return null;
            end if;

            if symbol < 256 then -- a byte
                written := written + 1;
                content[written] := symbol;
            else -- so many bytes again, from so far back
                width := length_widths[symbol - 256];
                times := length_starts[symbol - 256] + staging.read_bits(compressed, place, width);
                place := place + width;
                symbol := staging.read_symbol(turned, place, distance_code.starts, distance_code.symbols);
                place := place + (symbol & 15);
                width := distance_widths[(symbol >> 4) + 1];
                distance := distance_starts[(symbol >> 4) + 1] + staging.read_bits(compressed, place, width);
                place := place + width;
                if (distance <= written and written + times <= size) is not true then
                    return null;
                end if;
                for number in written + 1..written + times loop
                    content[number] := content[number - distance];
                end loop;
                written := written + times;
            end if;
        end loop;
        exit when block & 1 = 1;
    end loop;

    for number in 1..written loop
        remainder := (remainder >> 4) # checks[((remainder # content[number]) & 15) + 1];
        remainder := (remainder >> 4) # checks[((remainder # (content[number] >> 4)) & 15) + 1];
        digits := digits || substr(to_hex(256 + content[number]), 2);
        if number % 1024 = 0 then
            inflated := inflated || decode(digits, 'hex');
            digits := '';
        end if;
    end loop;
    if written <> size or (place + 7) / 8 <> trailer or remainder <> 4294967295 - (
        staging.read_bits(compressed, 8 * trailer, 16) + 65536::bigint * staging.read_bits(compressed, 8 * trailer + 16, 16)
    ) then
        return null;
    end if;
    return inflated || decode(digits, 'hex');
end
$$;

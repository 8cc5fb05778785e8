-- A key padded to SHA-256's block of 64 bytes, each byte xor *pad* (RFC 2104, section 2).
create or replace function masking.hmac_block(key bytea, pad integer)
returns bytea language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    block bytea := case when length(key) > 64 then sha256(key) else key end;
begin
    block := block || decode(repeat('00', 64 - length(block)), 'hex');
    for at in 0 .. 63 loop
        block := set_byte(block, at, get_byte(block, at) # pad);
    end loop;
    return block;
end
$$;

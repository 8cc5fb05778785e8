-- Whether the value of a field that is not masked holds, whole or as a word, an IP address, an email address or a phone number, or
-- what the event's personal fields hold (*personal_values*): equal to it, or around it where it has 8 characters or more, in any case.
-- Digits alone are an id and no phone number. A version of four parts below 256 is an address, unless it begins with 0.
-- What is found here and may_hold_personal() denies would never be looked for: change both. No query, whose parameters auto_explain
-- would log.
create or replace function masking.holds_personal(value text, personal_values text[])
returns boolean language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    octet constant text := '0*(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])';
    part text;
begin
    if
        -- what looks like a token would be taken for one
        value ~ '^v[0-9]+:[0-9a-f]{32}$'
        or value ~ '[^\s@](@|%40)[^\s@]+\.[[:alpha:]]{2}'
        or value ~ format('(?<![[:alnum:].])(?!0+\.)(%1$s\.){3}%1$s(?![[:alnum:]]|\.[[:alnum:]])', octet)
        -- a phone number with its country's code
        or value ~ E'(?<![[:alnum:]])\\+([ ()./\t\u00a0\u2010-\u2013-]*[0-9]){7,15}(?![0-9])'
        -- as North America separates it: (202) 555-0100
        or value ~ '(?<![[:alnum:].-])(\([2-9][0-9]{2}\)[ -]?|[2-9][0-9]{2}[ -])[2-9][0-9]{2}[ -][0-9]{4}(?![0-9-])'
        -- with a leading zero, and a space after the first digits: 020 7946 0018
        or value ~ '(?<![[:alnum:].-])(?=0[0-9]{0,5}[ )])0([ ()/-]*[0-9]){8,14}(?![0-9])'
    then
        return true;
    end if;

    if value like '%:%:%' then
        -- hex digits and colons; PostgreSQL knows which are addresses
        foreach part in array regexp_split_to_array(value, '[^[:alnum:]:]+') loop
            part := substring(part from '(?i)(?<![[:alnum:]])[0-9a-f:]*(?::[0-9a-f:]*:[0-9a-f]+|[0-9a-f]::)(?![[:alnum:]])');
            if pg_input_is_valid(part, 'inet') then
                return true;
            end if;
        end loop;
    end if;

    foreach part in array coalesce(personal_values, '{}') loop
        part := lower(masking.btrim_spaces(part));
        if part = nullif(lower(masking.btrim_spaces(value)), '') or (length(part) >= 8 and strpos(lower(value), part) > 0) then
            return true;
        end if;
    end loop;
    return false;
end
$$;

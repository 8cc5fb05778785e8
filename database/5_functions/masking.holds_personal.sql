-- Whether the value of a field that is not masked holds, whole or as a word, an IP address, an email address or a phone number, or
-- what the event's personal fields hold (*personal_values*): equal to it, or around it where it has 8 characters or more, in any case.
-- Digits alone are an id and no phone number. A version of four parts below 256 is an address, unless it begins with 0.
-- What is found here and may_hold_personal() denies would never be looked for: change both.
create or replace function masking.holds_personal(value text, personal_values text[])
returns boolean language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    octet constant text := '0*(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])';
begin
    return coalesce(
        value ~ '[^\s@](@|%40)[^\s@]+\.[[:alpha:]]{2}'
        or value ~ format('(?<![[:alnum:].])(?!0+\.)(%1$s\.){3}%1$s(?![[:alnum:]]|\.[[:alnum:]])', octet)
        -- words of hex digits and colons; PostgreSQL knows which are addresses
        or exists (
            select from regexp_matches(value, '(?<![[:alnum:]])[0-9a-f:]*(?::[0-9a-f:]*:[0-9a-f]+|[0-9a-f]::)(?![[:alnum:]])', 'gi') as word
            where pg_input_is_valid(word[1], 'inet')
        )
        -- with its country's code
        or value ~ E'(?<![[:alnum:]])\\+([ ()./\t\u00a0\u2010-\u2013-]*[0-9]){7,15}(?![0-9])'
        -- as North America separates it: (202) 555-0100
        or value ~ '(?<![[:alnum:].-])(\([2-9][0-9]{2}\)[ -]?|[2-9][0-9]{2}[ -])[2-9][0-9]{2}[ -][0-9]{4}(?![0-9-])'
        -- with a leading zero, and a space after the first digits: 020 7946 0018
        or value ~ '(?<![[:alnum:].-])(?=0[0-9]{0,5}[ )])0([ ()/-]*[0-9]){8,14}(?![0-9])'
        or exists (
            select from unnest(personal_values) as personal (known)
            where
                lower(masking.btrim_spaces(known)) = nullif(lower(masking.btrim_spaces(value)), '')
                or (length(masking.btrim_spaces(known)) >= 8 and strpos(lower(value), lower(masking.btrim_spaces(known))) > 0)
        ),
        false
    );
end
$$;

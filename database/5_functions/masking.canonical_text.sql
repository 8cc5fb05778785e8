-- One spelling for each value of a kind, so that equal values have equal tokens; null for what is no value of the kind.
--   device_id  a UUID in lower case (RFC 9562, section 4), other text as it is; both trimmed
--   email      an address (RFC 5321, section 4.1.2, of ASCII, without quotes and address literals) with its domain in lower case
--   phone      a number with its country's code as E.164 writes it: '+' and 7 to 15 digits
--   name       compatibility forms as one (NFKC), white space as one space, in lower case
--   as_sent    the text as it is
-- It never raises. One expression, STABLE as pg_input_is_valid() is, and not STRICT: where *form* is a constant, the planner inlines
-- the one branch. A regular expression takes microseconds, so device_id, which each login has, goes without.
create or replace function masking.canonical_text(form text, value text)
returns text language sql stable parallel safe
return case form
    when 'device_id' then
        case
            when value like '________-____-____-____-____________' and pg_input_is_valid(value, 'uuid') then lower(value)
            when
                masking.btrim_spaces(value) like '________-____-____-____-____________'
                and pg_input_is_valid(masking.btrim_spaces(value), 'uuid') then lower(masking.btrim_spaces(value))
            else masking.btrim_spaces(value)
        end
    when 'email' then
        substring(
            masking.btrim_spaces(value) from
            -- a local part of up to 64 and a domain of up to 255 characters: words, and two or more labels, the last not a number
            '^(?=[^@]{1,64}@.{1,255}$)([a-zA-Z0-9!#$%&''*+/=?^_`{|}~-]+(?:\.[a-zA-Z0-9!#$%&''*+/=?^_`{|}~-]+)*@)'
            '(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+(?![0-9]+$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$'
        ) || lower(substring(masking.btrim_spaces(value) from '@(.*)'))
    when 'phone' then
        -- without what separates the digits, and without '(0)', which is not dialled from abroad
        '+' || substring(
            regexp_replace(masking.btrim_spaces(value), E'^tel:|\\(0\\)|[][ ./()\t\u00a0\u2010-\u2013-]', '', 'gi')
            from '^(?:\+|00)([1-9][0-9]{6,14})$'
        )
    when 'name' then lower(masking.btrim_spaces(regexp_replace(normalize(value, nfkc), '[[:space:]]+', ' ', 'g')))
    when 'as_sent' then value
end;

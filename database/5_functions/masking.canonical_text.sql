-- One spelling for each value of a kind, so that equal values have equal tokens; null for what is no value of the kind.
--   device_id  a UUID in lower case (RFC 9562, section 4), other text as it is; both trimmed
--   email      an address in ASCII, without quotes (RFC 5321, section 4.1.2), its domain in lower case
--   phone      a number with its country's code as E.164 writes it: '+' and 7 to 15 digits
--   name       compatibility forms as one (NFKC), white space as one space, in lower case
--   as_sent    the text as it is
-- It never raises. One expression, STABLE as pg_input_is_valid() is and not STRICT: where *form* is a constant, the planner inlines
-- what concerns it. A regular expression takes microseconds, so device_id, which each login has, goes without.
create or replace function masking.canonical_text(form text, value text)
returns text language sql stable parallel safe
return case
    when form = 'as_sent' then value
    when form = 'device_id' and value like '________-____-____-____-____________' and pg_input_is_valid(value, 'uuid') then lower(value)
    when
        form = 'device_id' and char_length(value) > 36
        and masking.btrim_spaces(value) like '________-____-____-____-____________'
        and pg_input_is_valid(masking.btrim_spaces(value), 'uuid')
        then lower(masking.btrim_spaces(value))
    when form = 'device_id' then masking.btrim_spaces(value)
    when
        form = 'email' and strpos(masking.btrim_spaces(value), '@') <= 65 and length(masking.btrim_spaces(value)) <= 254
        -- words with single dots between them; labels, two or more, the last no number
        and masking.btrim_spaces(value) ~ (
            '^[a-zA-Z0-9!#$%&''*+/=?^_`{|}~-]+(\.[a-zA-Z0-9!#$%&''*+/=?^_`{|}~-]+)*'
            '@([a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*\.)+(?![0-9]+$)[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*$'
        )
        then split_part(masking.btrim_spaces(value), '@', 1) || '@' || lower(split_part(masking.btrim_spaces(value), '@', 2) collate "C")
    when form = 'phone'
        then '+' || substring(
            -- without what separates digits, and without '(0)', which is not dialled from abroad
            regexp_replace(masking.btrim_spaces(value), E'^tel:|\\(0\\)|[][ ./()\t\u00a0\u2010-\u2013-]', '', 'gi')
            from '^(?:\+|00)([1-9][0-9]{6,14})$'
        )
    when form = 'name' then lower(masking.btrim_spaces(regexp_replace(normalize(value, nfkc), '[[:space:]]+', ' ', 'g')))
end;

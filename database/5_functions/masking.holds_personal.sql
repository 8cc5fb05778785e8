-- Whether a value holds an address, an email address, a phone number, or one of *personal_values*.
create or replace function masking.holds_personal(value text, personal_values text[])
returns boolean language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return value ~ '[^@[:space:]]@[^@[:space:]]+[.]'
        or value ~ '[+][1-9][0-9 ().-]{6,}[0-9]'
        or exists (select from regexp_split_to_table(value, '\s+') as word where masking.canonical_ip(word) is not null)
        or lower(value) = any (select lower(personal) from unnest(personal_values) as personal where btrim(personal) != '');
end
$$;

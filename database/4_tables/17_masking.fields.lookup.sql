-- A column may hold what staging.ip_ranges says of the address at the path.
alter table masking.fields
add column lookup text check (lookup in ('country', 'asn')),
add check (lookup is null or (domain is null and max_length is null and on_personal = 'allow'));

-- One row per column of marts.user_logins that is made of an event's field: where the field stands, what is required of it, whether it
-- is personal and how it is masked. 6_fields.sql fills it. masking.apply_fields() turns it into columns, keys and views.
create table masking.fields (
    -- null for a path that is known and not taken: what it holds, and all below it, stays in the raw message
    column_name text unique check (column_name ~ '^[a-z][a-z0-9_]{0,50}$'),
    -- a name, or names and places from 0: user.id, device.ids[0]
    path text not null check (path ~ '^[A-Za-z_][A-Za-z0-9_-]*([.][A-Za-z_][A-Za-z0-9_-]*|\[[0-9]{1,4}\])*$'),
    -- the path as #> takes it
    keys text[] generated always as (string_to_array(replace(replace(path, '[', '.'), ']', ''), '.')) stored,
    json_type text not null default 'string' check (json_type in ('string', 'number', 'boolean', 'string_or_number')),
    -- the longest text that is accepted, in characters; null for no text, and where another row of the same path judges it
    max_length integer check (max_length > 0),
    is_required boolean not null default false,
    -- the key's domain; null for a field that is not personal and is stored as sent
    domain text check (domain ~ '^[a-z][a-z0-9_]{0,30}$'),
    -- what the token is made of: the value as sent, or a canonical form of it
    canonical_form text check (canonical_form in ('as_sent', 'ip', 'network', 'device_id', 'email', 'phone', 'name')),
    -- the domain in which a value without a canonical form is masked as sent; null: it gets no token
    fallback_domain text check (fallback_domain ~ '^[a-z][a-z0-9_]{0,30}$'),
    -- what becomes of an address, an email address, a phone number, or a personal field's value where it should not be
    on_personal text check (on_personal in ('reject', 'mask', 'allow')),
    reason text,
    unique (path, canonical_form),
    check ((domain is null) = (canonical_form is null)),
    check ((domain is null) = (reason is not null)),
    check (domain is not null or fallback_domain is null),
    check ((on_personal is not null) = (domain is null and column_name is not null)),
    check (domain is null or (column_name ~ '^masked_' and json_type like 'string%')),
    check (on_personal is distinct from 'mask' or (max_length >= 64 and json_type like 'string%'))
);

-- One row per column of marts.user_logins that is made of an event's field: what is read, what is required of it, whether it is
-- personal and how it is masked. 6_fields.sql fills it. masking.apply_fields() turns it into columns, keys and views.
create table masking.fields (
    column_name text primary key check (column_name ~ '^[a-z][a-z0-9_]{0,50}$'),
    field text not null,
    -- the longest value that is accepted, in characters; null where another row of the same field judges it
    max_length integer check (max_length > 0),
    is_required boolean not null,
    -- the key's domain; null for a field that is not personal and is stored as sent
    domain text check (domain ~ '^[a-z][a-z0-9_]{0,30}$'),
    -- what the token is made of: the value as sent, or a function's canonical form of it
    canonical_form text check (canonical_form in ('as_sent', 'ip', 'network')),
    -- the domain in which a value without a canonical form is masked as sent; null: it gets no token
    fallback_domain text check (fallback_domain ~ '^[a-z][a-z0-9_]{0,30}$'),
    reason text,
    check ((domain is null) = (canonical_form is null)),
    check ((domain is null) = (reason is not null)),
    check (domain is not null or fallback_domain is null),
    check (domain is null or column_name ~ '^masked_')
);

-- One row per request to see the values behind tokens, and how far it has come: requested, approved, opened, read.
-- What was found is never stored.
create table recovery.reveals (
    reveal_id uuid primary key default gen_random_uuid(),
    -- tokens and nothing else: whoever pastes a value here by mistake must not find it in the audit
    tokens text[] not null check (
        cardinality(tokens) between 1 and 50
        and array_to_string(tokens, ' ', 'null') ~ '^v[0-9]{1,9}:[0-9a-f]{32}( v[0-9]{1,9}:[0-9a-f]{32})*$'
    ),
    purpose text not null check (purpose in ('fraud', 'security_incident', 'data_subject_request', 'legal_obligation')),
    legal_reference text not null check (length(btrim(legal_reference)) between 1 and 200),
    requester text not null,
    requested_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null default clock_timestamp() + interval '1 hour',
    approver text check (approver <> requester),
    approved_at timestamptz,
    opened_at timestamptz,
    -- the transaction that wrote the audit's row; reading waits until it has committed
    opened_xid xid8,
    read_at timestamptz
);

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
    -- the case, ticket or order that allows it
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

comment on table recovery.reveals is 'One row per request to see the values behind tokens.';
comment on column recovery.reveals.reveal_id is 'Random, so that it cannot be guessed.';
comment on column recovery.reveals.tokens is 'The tokens asked for, 1 to 50.';
comment on column recovery.reveals.purpose is 'fraud, security_incident, data_subject_request or legal_obligation.';
comment on column recovery.reveals.legal_reference is 'The case, ticket or order that allows it.';
comment on column recovery.reveals.requester is 'Login role that asked.';
comment on column recovery.reveals.requested_at is 'When it was asked for, UTC.';
comment on column recovery.reveals.expires_at is 'No step is allowed from here on, UTC; one hour after the request.';
comment on column recovery.reveals.approver is 'Login role that allowed it; never the requester.';
comment on column recovery.reveals.approved_at is 'When it was allowed, UTC.';
comment on column recovery.reveals.opened_at is 'When the audit recorded that the values are about to be read, UTC.';
comment on column recovery.reveals.opened_xid is 'The transaction that recorded it.';
comment on column recovery.reveals.read_at is 'When the values were read, UTC.';

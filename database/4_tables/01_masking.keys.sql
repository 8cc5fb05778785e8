-- One row per domain: its random 256-bit key, kept as HMAC's two padded blocks (RFC 2104, section 2) so that no call pads
-- it anew. Made inside the server by masking.create_key(); it is in no file and no statement.
create table masking.keys (
    domain text primary key,
    version integer not null check (version > 0),
    inner_block bytea not null check (length(inner_block) = 64),
    outer_block bytea not null check (length(outer_block) = 64),
    created_at timestamptz not null default now()
);

-- ANALYZE must not copy keys into pg_statistic.
alter table masking.keys
alter column inner_block set statistics 0,
alter column outer_block set statistics 0;

-- No policy: a SELECT granted by mistake finds no row. Row security does not apply to the owner.
alter table masking.keys enable row level security;

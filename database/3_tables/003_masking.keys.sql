-- One row per (domain, version): a random 256-bit key, kept as HMAC's two padded blocks (RFC 2104, section 2)
-- so that no call pads it anew. Made inside the server by masking.create_key(); it is in no file and no statement.
create table masking.keys (
    -- what kind of value it masks: equal strings in two domains get unrelated tokens
    domain text not null,
    version integer not null check (version > 0),
    -- K xor ipad
    inner_block bytea not null check (length(inner_block) = 64),
    -- K xor opad
    outer_block bytea not null check (length(outer_block) = 64),
    created_at timestamptz not null default now(),
    primary key (domain, version)
);

-- ANALYZE must not copy keys into pg_statistic.
alter table masking.keys
alter column inner_block set statistics 0,
alter column outer_block set statistics 0;

-- No policy: a SELECT granted by mistake finds no row. The owner, as whom the maskers run, is not subject to it.
alter table masking.keys enable row level security;

comment on table masking.keys is 'One row per (domain, version): an HMAC key as its two padded blocks. The highest version masks.';
comment on column masking.keys.domain is 'Kind of value, such as ip; database/5_keys.sql lists them.';
comment on column masking.keys.version is 'Counted from 1; the v1 of a token.';
comment on column masking.keys.inner_block is 'Key xor ipad, 64 bytes (RFC 2104).';
comment on column masking.keys.outer_block is 'Key xor opad, 64 bytes (RFC 2104).';
comment on column masking.keys.created_at is 'When the key was generated, UTC.';

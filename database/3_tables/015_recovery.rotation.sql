-- The rotation in progress: one row, or none.
create table recovery.rotation (
    only_row boolean primary key default true check (only_row),
    begun_at timestamptz not null default clock_timestamp(),
    -- the values of every message with landed_xid below this are in recovery.rotated_tokens
    mapped_before xid8 not null default '0'
);

comment on table recovery.rotation is 'The key rotation in progress: one row, or none.';
comment on column recovery.rotation.only_row is 'True: there is one row at most.';
comment on column recovery.rotation.begun_at is 'When it began, UTC.';
comment on column recovery.rotation.mapped_before is 'The values of every message landed below this transaction id have their new token.';

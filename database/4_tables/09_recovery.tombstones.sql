-- One row per erased person: a token under a key that never rotates, which says nothing without that key and
-- recognises the person's id when it arrives again.
create table recovery.tombstones (
    user_token text primary key,
    erased_at timestamptz not null default clock_timestamp()
);

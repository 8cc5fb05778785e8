-- One row per act on personal data, in order, each sealed with a SHA-256 over itself and the row before: a changed or missing row
-- breaks the chain, and the last row is held by the anchor that is kept outside (recovery.audit_head()).
create table recovery.audit (
    entry bigint primary key check (entry > 0),
    recorded_at timestamptz not null,
    -- session_user: who logged in, whatever role was taken on since
    actor text not null,
    act text not null check (
        act in (
            'reveal_requested', 'reveal_approved', 'reveal_opened', 'reveal_read',
            'erased', 'retention_set', 'expired', 'rotation_begun', 'rotated'
        )
    ),
    details jsonb not null,
    previous_seal bytea not null check (length(previous_seal) = 32),
    seal bytea not null check (length(seal) = 32)
);

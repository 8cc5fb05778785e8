-- One row per partition from which something was deleted whose bytes must not stay: DELETE leaves them in the file,
-- recovery.scrub() writes the file anew. The row's own xmin is the deleting transaction, the latest of them.
create table recovery.scrubs (
    relation regclass primary key,
    deleted_at timestamptz not null default now()
);

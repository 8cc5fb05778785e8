-- One row per partition from which something was deleted whose bytes must not stay: DELETE leaves them in the file,
-- recovery.scrub() writes the file anew. The row's own xmin is the deleting transaction, the latest of them.
create table recovery.scrubs (
    relation regclass primary key,
    -- written so that an update gives the row a new xmin
    deleted_at timestamptz not null default now()
);

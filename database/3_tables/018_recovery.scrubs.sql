-- One row per relation from which something was deleted whose bytes must not stay: DELETE leaves them in the file,
-- recovery.scrub() writes the file anew.
create table recovery.scrubs (
    relation regclass primary key,
    -- the deleting transaction, the latest of them; bytes stay while a transaction is open that may still see the row
    deleted_xid xid8 not null default pg_current_xact_id()
);

comment on table recovery.scrubs is 'Relations whose files still hold bytes of deleted rows.';
comment on column recovery.scrubs.relation is 'The table, or the partition.';
comment on column recovery.scrubs.deleted_xid is 'The last transaction that deleted from it.';

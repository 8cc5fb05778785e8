-- One row per message on the login queue, as it arrived. Partitioned by UTC day of sending, so that
-- retention is the DROP of a partition; staging.ensure_partitions() makes them as dates arrive.
-- No CHECK: its error would print the whole row, body included, to the client and into the server's log.
create table staging.raw_logins (
    -- MessageId as SQS gives it
    message_id text not null,
    -- SentTimestamp: unchanged when SQS delivers again, so the key catches a redelivery on any later day
    sent_at timestamptz not null,
    -- the message body, verbatim; judged in SQL, never by the loader
    body text not null,
    landed_at timestamptz not null default clock_timestamp(),
    -- the transaction that landed the row: what dbt's gap-free window goes by
    landed_xid xid8 not null default pg_current_xact_id(),
    primary key (message_id, sent_at)
) partition by range (sent_at);

create index raw_logins_landed_xid on staging.raw_logins (landed_xid);

-- ANALYZE would copy the commonest bodies into pg_statistic, where they outlive the table.
alter table staging.raw_logins alter column body set statistics 0;

-- Whoever is subject to row security is shown no row in an error's DETAIL, not that of a NOT NULL either.
-- The policies are in 6_privileges.sql.
alter table staging.raw_logins enable row level security;

comment on table staging.raw_logins is
'One row per landed message, verbatim. Personal data in plain text lives here and nowhere else.';
comment on column staging.raw_logins.message_id is 'SQS MessageId.';
comment on column staging.raw_logins.sent_at is 'SQS SentTimestamp, UTC.';
comment on column staging.raw_logins.body is 'The message body as sent; a body that text cannot hold is in bytea''s hex format.';
comment on column staging.raw_logins.landed_at is 'When the loader inserted the row, UTC.';
comment on column staging.raw_logins.landed_xid is 'The inserting transaction; see staging.open_window().';

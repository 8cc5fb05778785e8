-- One row per message on the login queue, as it arrived. Partitioned by UTC day of sending, so that
-- retention is the DROP of a partition; staging.ensure_partitions() makes them as dates arrive.
-- No CHECK: its error would print the whole row, body included, to the client and into the server's log.
create table staging.raw_logins (
    message_id text not null,
    -- SentTimestamp: unchanged when SQS delivers again, so the key catches a redelivery on any later day
    sent_at timestamptz not null,
    body text not null,
    -- what SQS says of the message beside its body: message attributes, receive count
    attributes jsonb,
    landed_at timestamptz not null default clock_timestamp(),
    primary key (sent_at, message_id) -- in this order new rows stand together in the index, however long the history is
) partition by range (sent_at);

-- ANALYZE would copy the commonest bodies into pg_statistic, where they outlive the table.
alter table staging.raw_logins
alter column body set statistics 0,
alter column attributes set statistics 0;

-- A role that is subject to row security gets no row in an error's DETAIL, not that of a NOT NULL either.
alter table staging.raw_logins enable row level security;

-- The work list: a row for each landed message that has no outcome yet. The loader adds it in the transaction that lands the body;
-- dbt removes it in the transaction that writes the outcome. So a message leaves the list only together with its outcome.
-- No key: a message that SQS delivers again may be listed twice, which does no harm, and an index would slow landing by a third.
create table staging.unjudged (
    message_id text not null,
    -- dbt makes the partition of each month that is listed
    sent_at timestamptz not null check (sent_at >= '0001-01-01Z' and sent_at < '10000-01-01Z'),
    -- whether the body may be a batch, as staging.body_is_wrapped() says; only these are opened to look
    is_wrapped boolean not null default true
);

-- Rows come and go, so a scan soon reads mostly dead ones: vacuum after a fixed number instead of a share of the table.
alter table staging.unjudged set (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000
);

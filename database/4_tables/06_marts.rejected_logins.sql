-- One row per message that broke a rule: its reasons, and nothing of its content. Partitioned by UTC month of sending.
create table marts.rejected_logins (
    message_id text not null,
    reasons text[] not null check (cardinality(reasons) > 0),
    sent_at timestamptz not null,
    landed_at timestamptz not null,
    primary key (sent_at, message_id)
) partition by range (sent_at);

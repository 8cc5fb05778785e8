-- One row per message that was erased: keeps a redelivery out that carries no readable user_id. SQS holds a message for 14 days at
-- most, so recovery.expire_next() forgets the row when no redelivery can come any more.
create table recovery.erased_messages (
    message_id text not null,
    sent_at timestamptz not null,
    erased_at timestamptz not null default clock_timestamp(),
    primary key (message_id, sent_at)
);

-- How long plain text is kept. One row.
create table recovery.retention (
    only_row boolean primary key default true check (only_row),
    -- SQS may deliver a message again for 14 days; the key that recognises it must live as long
    raw_days integer not null check (raw_days >= 14)
);

insert into recovery.retention (raw_days) values (30);

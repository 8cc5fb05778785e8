-- One row per dbt model that reads staging: how far it has taken the landed rows.
create table staging.watermarks (
    consumer text primary key,
    -- every row with landed_xid below this has been taken
    taken_before xid8 not null default '0',
    -- upper bound of the window that is open in the current run
    window_before xid8 not null default '0',
    -- transaction ids mean nothing on another server, and a restored dump is another server
    system_identifier bigint not null,
    taken_at timestamptz not null default now()
);

comment on table staging.watermarks is 'One row per dbt model that reads staging: how far it has taken the landed rows.';
comment on column staging.watermarks.consumer is 'Name of the dbt model.';
comment on column staging.watermarks.taken_before is 'Every row with landed_xid below this has been taken.';
comment on column staging.watermarks.window_before is 'Upper bound (exclusive) of the window opened last.';
comment on column staging.watermarks.system_identifier is 'The server whose transaction ids these are: pg_control_system().';
comment on column staging.watermarks.taken_at is 'When the last window was closed, UTC.';

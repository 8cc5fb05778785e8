-- One row per accepted login. Partitioned by UTC month of sending. dbt inserts and reads; only the owner changes or deletes.
-- masking.apply_fields() adds the columns of fields that are declared later.
create table marts.user_logins (
    user_id varchar(128) not null,
    device_type varchar(32) not null,
    masked_ip varchar(256) not null,
    masked_device_id varchar(256) not null,
    locale varchar(32),
    app_version varchar(32) not null,
    create_date date not null,
    ip_is_valid boolean,
    masked_network varchar(256),
    app_version_parts integer[],
    message_id text not null,
    sent_at timestamptz not null,
    primary key (sent_at, message_id)
) partition by range (sent_at);

-- ANALYZE would copy user ids into pg_statistic, where they outlive the erasure of a person.
alter table marts.user_logins alter column user_id set statistics 0;

-- Rows of the first edition in every state that they can be in, made with its own functions. What dbt did is said in plain SQL.
-- A message's id says its state.

create function pg_temp.land(message_id text, days_ago integer, user_id text, ip text) returns void language sql as $$
    insert into staging.raw_logins (message_id, sent_at, body) values (
        message_id,
        current_date - days_ago + time '12:00',
        json_build_object('user_id', user_id, 'device_type', 'ios', 'ip', ip, 'device_id', 'device-' || ip, 'locale', null, 'app_version', '2.10')
    )
$$;

create function pg_temp.judge(message_ids text) returns void language sql as $$
    insert into marts.user_logins
    select
        body::json ->> 'user_id', 'ios', masking.token('ip', body::json ->> 'ip'), masking.token('device_id', body::json ->> 'device_id'),
        null, '2.10', (sent_at at time zone 'UTC')::date, true, masking.token('network', masking.network_of_ip(body::json ->> 'ip')),
        array[2, 10], message_id, sent_at, landed_xid
    from staging.raw_logins
    where message_id ~ message_ids and body is json object;
    insert into marts.rejected_logins (message_id, reasons, sent_at, landed_at, landed_xid)
    select message_id, array['body_not_json'], sent_at, landed_at, landed_xid
    from staging.raw_logins
    where message_id ~ message_ids and body is not json object
$$;

insert into recovery.retention (raw_days) values (30);
select masking.create_key(domain) from unnest(array['ip', 'invalid_ip', 'network', 'device_id', 'erased_user']) as domain;
select staging.ensure_partitions(array[current_date, current_date - 1, current_date - 2, current_date - 41]);
select pg_temp.land('masked-' || days_ago || '-' || n, days_ago, 'user-' || n, '192.0.2.' || n + days_ago)
from generate_series(1, 5) as n, unnest(array[0, 1, 41]) as days_ago;
select pg_temp.land('detached-masked', 2, 'user-1', '192.0.2.1'), pg_temp.land('detached-waiting', 2, 'user-1', '192.0.2.99');
select pg_temp.land('erased-1', 0, 'erased-user', '192.0.2.200'), pg_temp.land('erased-2', 1, 'erased-user', '192.0.2.201');
-- `dbt run --empty` took it and wrote nothing
select pg_temp.land('lost', 1, 'user-1', '192.0.2.1');
insert into staging.raw_logins (message_id, sent_at, body) values ('rejected-1', now(), 'no JSON'), ('rejected-2', now() - interval '1 day', '{');
select pg_temp.judge('masked|^rejected|erased-1');
insert into staging.watermarks (consumer, taken_before, system_identifier)
select consumer, (pg_current_xact_id()::text::bigint + 1)::text::xid8, system_identifier
from pg_control_system(), unnest(array['user_logins', 'rejected_logins']) as consumer;

-- the tokens of the expired day stay under the first key
select recovery.expire_next(), recovery.begin_rotation();
select recovery.swap_tokens(), recovery.erase('erased-user'), recovery.set_retention(45);

select pg_temp.land('waiting', 0, 'user-1', '192.0.2.1'), pg_temp.land('erased-3', 0, 'erased-user', '192.0.2.200');
insert into staging.raw_logins (message_id, sent_at, body) values ('waiting-rejected', now(), 'no JSON');
select recovery.begin_rotation(), recovery.map_tokens(10);
select recovery.request_reveal(array['v1:' || repeat('0', 32)], 'fraud', 'case 1');
insert into migrations.applied (file, sha256) values ('3_tables/001_staging.raw_logins.sql', ''), ('5_keys.sql', '');

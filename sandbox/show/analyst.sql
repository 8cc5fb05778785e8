-- What an analyst sees: for psql, as the role that the file is named after.
\pset footer off
\echo 'analytics.user_logins, five of its rows'
select user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
from analytics.user_logins
order by create_date desc, masked_ip
limit 5;
\echo 'analytics.shared_ips: addresses seen more than once'
select * from analytics.shared_ips order by logins desc, masked_ip limit 5;
\echo 'analytics.shared_devices: devices seen more than once'
select * from analytics.shared_devices order by logins desc, masked_device_id limit 5;
\echo 'analytics.daily_logins, the five most frequent rows'
select * from analytics.daily_logins order by logins desc, create_date, dimension, dimension_value limit 5;
\echo 'analytics.daily_reconciliation: where the messages are'
select
    sum(landed) as landed, sum(masked) as masked, sum(rejected) as rejected, sum(erased) as erased, sum(waiting) as waiting,
    sum(lost) as lost
from analytics.daily_reconciliation;

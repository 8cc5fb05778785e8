-- The masking policy: each field that a login may carry, and each column of marts.user_logins that is made of it. Reading,
-- judging, masking, recovery and the policy test go by it; README says how to add a field. A field that is not named here makes
-- dbt test fail as soon as it arrives.

delete from masking.fields;

-- Personal, and masked. Text that is no address is masked as sent, so that its duplicates can still be found.
-- A wider or narrower network is a row of its own: ('masked_region', 'ip', null, true, 'region', 'network/16/32', null).
insert into masking.fields (column_name, path, max_length, is_required, domain, canonical_form, fallback_domain)
values
('masked_ip', 'ip', 256, true, 'ip', 'ip', 'invalid_ip'),
('masked_network', 'ip', null, true, 'network', 'network/24/48', null),
('masked_device_id', 'device_id', 256, true, 'device_id', 'device_id', null);

-- Not personal, for the reason given, and stored as sent.
insert into masking.fields (column_name, path, max_length, is_required, on_personal, reason)
values
('user_id', 'user_id', 128, true, 'reject', 'a random UUID that analysts count by; it names nobody outside'),
('device_type', 'device_type', 32, true, 'reject', 'one of a few kinds'),
('locale', 'locale', 32, false, 'reject', 'one of some two hundred countries'),
('app_version', 'app_version', 32, true, 'reject', 'one of a few releases');

-- What staging.ip_ranges says of the address, once `python -m loader ranges` has filled it; null until then, and for text that is none.
insert into masking.fields (column_name, path, lookup, on_personal, reason)
values
('ip_country', 'ip', 'country', 'allow', 'one for a whole masked_network'),
('ip_asn', 'ip', 'asn', 'allow', 'one for a whole masked_network');

set local role pipeline_owner;

-- What an event may arrive in, one in another, eight deep. Take a word out, and what arrives in it is rejected as body_in_<word>, or as
-- body_is_batch. Put it back and run `make rejudge` to have the rejected messages read.
--   sns          a notification of SNS
--   eventbridge  an event of EventBridge: detail
--   cloudevents  a CloudEvent: data or data_base64
--   json_text    JSON in a JSON text
--   base64       JSON in base64
--   gzip         JSON, compressed by gzip, in base64
--   batch        several events in a JSON array, each of which becomes a message
create or replace function staging.envelopes()
returns text[] language sql immutable parallel safe
return array['sns', 'eventbridge', 'cloudevents', 'json_text', 'base64', 'gzip', 'batch'];

select masking.apply_fields();
set local role none;

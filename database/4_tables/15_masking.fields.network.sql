-- network/16/32 is an address's /16, of IPv6 its /32. 6_fields.sql fills the table again.
delete from masking.fields;
alter table masking.fields
drop constraint fields_canonical_form_check,
add constraint fields_canonical_form_check
check (canonical_form ~ '^(as_sent|ip|network/(8|16|24)/(32|48|56|64)|device_id|email|phone|name)$');

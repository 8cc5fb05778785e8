-- A device id for reading, all letters and digits struck out but the last four: xxx-xx-1234. Not identifying (others end
-- alike) and not secret. Shorter than eight letters and digits, nothing of it is shown.
create or replace function masking.partial_device_id(value text)
returns text
language sql
immutable
strict
parallel safe
return case
    when length(regexp_replace(value, '[^[:alnum:]]', '', 'g')) < 8
        then regexp_replace(value, '[[:alnum:]]', 'x', 'g')
    else regexp_replace(value, '[[:alnum:]](?=([^[:alnum:]]*[[:alnum:]]){4})', 'x', 'g')
end;

comment on function masking.partial_device_id(text) is
'Device id with all but its last four letters and digits struck out. For reading: neither identifying nor secret.';

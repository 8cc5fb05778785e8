-- What is wrong with one field of an event, as the reason of a rejection; null where nothing is. *json_type* is as masking.fields has
-- it, *found_type* as jsonb_typeof() says it. One rule a line.
create or replace function masking.fault(
    path text, value text, found_type text, json_type text, is_required boolean, max_length integer
)
returns text language sql immutable parallel safe
return path || case
    -- what nearly every field is: a short text with a printable first letter
    when found_type = json_type and ascii(value) between 33 and 126 and char_length(value) <= max_length then null
    when coalesce(found_type, 'null') = 'null' then case when is_required then '_missing' end
    when strpos(json_type, found_type) = 0 then case when json_type like 'string%' then '_not_text' else '_not_a_' || json_type end
    when masking.btrim_spaces(value) = '' then '_empty'
    when char_length(value) > max_length then '_too_long'
end;

-- Whether a text is JSON that jsonb can hold. False where it may be nested so deeply that PostgreSQL's parser gives up (some 16,000
-- levels, which even pg_input_is_valid() reports as an error): it is not parsed if it has more than 8,192 opening brackets.
-- One expression, STABLE and not STRICT, so that the planner inlines it.
create or replace function staging.can_be_jsonb(content text)
returns boolean language sql stable parallel safe
return (octet_length(content) <= 8192 or octet_length(content) - octet_length(translate(content, '[{', '')) <= 8192)
and pg_input_is_valid(content, 'jsonb');

-- The event in a message body as jsonb: the one place that reads a body, for dbt, recovery and the tests. Null where the body is
-- not JSON, or may be nested so deeply that PostgreSQL's parser gives up (some 16,000 levels, which even pg_input_is_valid()
-- reports as an error): it is not parsed if it has more than 8,192 opening brackets.
-- One expression, STABLE and not STRICT, so that the planner inlines it.
create or replace function staging.event(body text)
returns jsonb language sql stable parallel safe
return case
    when
        (octet_length(body) <= 8192 or octet_length(body) - octet_length(translate(body, '[{', '')) <= 8192)
        and pg_input_is_valid(body, 'jsonb')
        then body::jsonb
end;

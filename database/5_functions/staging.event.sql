-- The event in a message body as jsonb: the one place that reads a body, for dbt, recovery and the tests. A jsonb text where there is
-- none: the reason. One expression, STABLE and not STRICT, so that the planner inlines it.
create or replace function staging.event(body text)
returns jsonb language sql stable parallel safe
return case
    when not staging.body_is_wrapped(body) and staging.can_be_jsonb(body) then body::jsonb
    else staging.enveloped_event(body)
end;

-- Whether a body may be more than one bare event: for a cheap first look, so it is true of some bodies that are none (but not JSON, say).
-- Each envelope whose JSON is an object has one of these keys. One expression, not STRICT, so that the planner inlines it.
create or replace function staging.body_is_wrapped(body text)
returns boolean language sql immutable parallel safe
return not starts_with(body, '{')
or strpos(body, '"TopicArn"') > 0
or strpos(body, '"detail-type"') > 0
or strpos(body, '"specversion"') > 0
or strpos(body, '"Records"') > 0;

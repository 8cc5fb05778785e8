-- The batch that pg_temp.incoming has, with its place on the work list.

-- no conflict target: with one, a role that may only insert is refused
insert into staging.raw_logins (message_id, sent_at, body, attributes)
select
    message_id,
    sent_at,
    body,
    case when pg_input_is_valid(attributes, 'jsonb') then attributes::jsonb else to_jsonb(attributes) end as attributes
from pg_temp.incoming
on conflict do nothing;

insert into staging.unjudged (message_id, sent_at, is_wrapped)
select
    message_id,
    sent_at,
    staging.body_is_wrapped(body) as is_wrapped
from pg_temp.incoming;

select set_config('synchronous_commit', current_setting('loader.durability'), true) as durability;

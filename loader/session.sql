-- What a connection of the loader's begins with.

-- Whatever a server, database or role sets: a commit is at least as durable as the delete that follows it (see land.sql), and a warning of
-- it is not hidden. Elsewhere nothing waits for a standby: a session that ends commits the removal of its temporary table.
with

of_the_server as (

    select current_setting('synchronous_commit') as durability

)

select
    current_setting('fsync')::bool and current_setting('full_page_writes')::bool as is_durable,
    set_config('loader.durability', case durability when 'remote_apply' then durability else 'on' end, false) as chosen,
    set_config('synchronous_commit', 'off', false) as elsewhere,
    set_config('client_min_messages', 'warning', false) as warnings
from of_the_server;

create temporary table incoming (message_id text, sent_at timestamptz, body text, attributes text) on commit delete rows;

-- An id for analysts, which says nothing of the message.
alter table marts.user_logins add column login_id uuid not null default gen_random_uuid();

-- When each of the two models last took messages from the work list, as the transaction that took them says. A run that fails leaves no
-- trace here.
create table marts.last_run (
    model_name text primary key check (model_name in ('user_logins', 'rejected_logins')),
    ended_at timestamptz not null
);
insert into marts.last_run (model_name, ended_at) values ('user_logins', '-infinity'), ('rejected_logins', '-infinity');

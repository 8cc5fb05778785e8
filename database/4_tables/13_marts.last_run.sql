-- One row: when dbt last took messages from the work list. A run that fails leaves no trace here.
create table marts.last_run (
    is_last boolean primary key default true check (is_last),
    began_at timestamptz not null
);
insert into marts.last_run (began_at) values ('-infinity');

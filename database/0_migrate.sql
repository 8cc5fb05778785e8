-- What every migrate begins with, in the transaction that it runs in.

-- A statement that waits for a lock makes everyone behind it wait, loaders included. So wait briefly, let them pass, try again.
set local lock_timeout = '500ms';
set local client_min_messages = error;

-- An error of a file may quote a value of the data, and a password's verifier is in its statement. Only a superuser can keep both
-- out of the server's log from here.
select
    set_config('log_min_messages', 'fatal', true) as messages,
    set_config('log_statement', 'none', true) as statements,
    set_config('log_min_duration_statement', '-1', true) as slow_statements
from pg_roles
where rolname = current_user and rolsuper;

create schema if not exists migrations;
create table if not exists migrations.applied (
    file text primary key, -- noqa: RF04, a keyword of other dialects
    sha256 text not null,
    applied_at timestamptz not null default now()
);
lock table migrations.applied in share row exclusive mode;

-- All that 7_privileges.sql sets, in one value: who may do what, row security, and the settings of roles and of the database.
create or replace temporary view privileges as
with

acls (owned, acl) as (

    select
        'schema ' || oid,
        nspacl
    from pg_namespace
    union all
    select
        'relation ' || oid || relrowsecurity::text,
        relacl
    from pg_class
    where relnamespace >= 16384
    union all
    select
        'column ' || attrelid || ' ' || attnum,
        attacl
    from pg_attribute
    where attacl is not null
    union all
    select
        'function ' || oid,
        proacl
    from pg_proc
    where pronamespace >= 16384 or proname like 'lo\_%'
    union all
    select
        'database ' || oid,
        datacl
    from pg_database
    where datname = current_database()

),

lines (line) as (

    select concat(owned, ': ', (select string_agg(item::text, ' ' order by item::text) from unnest(acl) as items (item))) from acls
    union all
    select pg_policies::text from pg_policies
    union all
    select pg_db_role_setting::text from pg_db_role_setting

)

select md5(string_agg(line, ' ' order by line)) as digest from lines;

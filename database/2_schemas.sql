-- staging, masking and recovery belong to an owner that nobody logs in as; marts and analytics belong to dbt.

create schema if not exists staging authorization pipeline_owner;
create schema if not exists masking authorization pipeline_owner;
create schema if not exists recovery authorization pipeline_owner;
create schema if not exists marts authorization transformer;
create schema if not exists analytics authorization transformer;

comment on schema staging is 'What the loader landed, verbatim: the only relation that holds personal data in plain text.';
comment on schema masking is 'Keys and the functions that use them; the keys are readable by their owner alone.';
comment on schema recovery is 'The privacy officer''s acts, each on record: reveal, erase, expire, rotate.';
comment on schema marts is 'Masked logins, and what was rejected; built by dbt.';
comment on schema analytics is 'All that an analyst sees; built by dbt.';

-- PostgreSQL lets everyone execute a new function unless told otherwise before it is created.
alter default privileges for role pipeline_owner revoke execute on functions from public;
alter default privileges for role transformer revoke execute on functions from public;

-- Needed to become the owner of functions there; database/6_privileges.sql takes it back in the same transaction.
grant create on schema recovery to marts_keeper;

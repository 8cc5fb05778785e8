-- Everything but the analysts' views belongs to an owner that nobody can log in as; the views belong to dbt's role.

create schema if not exists staging authorization pipeline_owner;
create schema if not exists masking authorization pipeline_owner;
create schema if not exists marts authorization pipeline_owner;
create schema if not exists recovery authorization pipeline_owner;
create schema if not exists analytics authorization transformer;
-- made by migrate itself; another administrator can then migrate, and restore a backup
alter schema migrations owner to pipeline_owner;
alter table migrations.applied owner to pipeline_owner;

comment on schema staging is 'What the loader landed, verbatim: the only schema that holds personal data in plain text.';
comment on schema masking is 'What is personal, how it is masked, and the keys, which only their owner can read.';
comment on schema marts is 'Masked logins and rejected messages; filled by dbt.';
comment on schema recovery is 'The privacy officer''s acts, each on record: reveal, erase, expire, rotate.';
comment on schema analytics is 'All that an analyst sees; built by dbt.';

-- PostgreSQL lets everyone execute a new function unless told otherwise before it is created.
alter default privileges for role pipeline_owner revoke execute on functions from public;
alter default privileges for role transformer revoke execute on functions from public;

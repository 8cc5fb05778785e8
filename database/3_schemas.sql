-- Everything but what dbt makes for readers belongs to an owner that nobody can log in as.

create schema if not exists staging authorization pipeline_owner;
create schema if not exists masking authorization pipeline_owner;
create schema if not exists marts authorization pipeline_owner;
create schema if not exists recovery authorization pipeline_owner;
create schema if not exists analytics authorization transformer;
create schema if not exists reports authorization transformer;
-- made by migrate itself; another administrator can then migrate, and restore a backup
alter schema migrations owner to pipeline_owner;
alter table migrations.applied owner to pipeline_owner;

-- PostgreSQL lets everyone execute a new function unless told otherwise before it is created.
alter default privileges for role pipeline_owner revoke execute on functions from public;
alter default privileges for role transformer revoke execute on functions from public;

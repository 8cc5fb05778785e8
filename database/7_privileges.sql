-- Who may do what: the only place, except memberships (1_roles.sql). Run on every migrate, so that what was granted by hand is
-- taken back. What analyst and reporter may read is granted in dbt_project/dbt_project.yml, where the views are made.
-- tests/access/privileges.txt lists, from the catalog, what comes of it.

-- Revoke everything first, with grants passed on, then grant what follows.
do $$
declare
    pipeline_roles constant text := 'public, loader, transformer, analyst, reporter, pii_requester, pii_approver, privacy_officer';
    other_roles constant text := 'public, loader, analyst, reporter, pii_requester, pii_approver, privacy_officer';
    -- every role that has anything in this database: a privilege may come from a role that was allowed to pass it on
    grantees constant text := concat_ws(', ', 'public', (
        select string_agg(distinct refobjid::regrole::text, ', ') from pg_shdepend
        where
            deptype = 'a' and refobjid <> 'pipeline_owner'::regrole
            and dbid = (select oid from pg_database where datname = current_database())
    ));
    this record;
begin
    execute format('revoke all on database %I from %s cascade', current_database(), pipeline_roles);
    execute format(
        'grant connect on database %I to loader, transformer, analyst, reporter, pii_requester, pii_approver, privacy_officer', current_database()
    );
    -- dbt builds each increment in a temporary table, the loader lands a batch through one, recovery.rotate() needs one
    execute format('grant temporary on database %I to loader, transformer, pipeline_owner', current_database());

    -- As the owner: an administrator who is no superuser may act for several roles, and REVOKE takes back only what one of them granted.
    set local role pipeline_owner;
    execute format('revoke all on schema staging, masking, marts, recovery from %s cascade', grantees);
    execute format('revoke all on all tables in schema staging, masking, marts, recovery from %s cascade', grantees);
    execute format('revoke all on all functions in schema staging, masking, marts, recovery from %s cascade', grantees);
    set local role none;
    execute format('revoke all on schema analytics, reports from %s cascade', other_roles);
    execute format('revoke all on all functions in schema analytics, reports from %s cascade', other_roles);
    for this in
        select
            defaclnamespace::regnamespace as schema,
            case grantee when 0 then 'public' else grantee::regrole::text end as grantee
        from pg_default_acl
        cross join lateral aclexplode(defaclacl)
        where defaclrole = 'transformer'::regrole and defaclobjtype = 'r' and grantee <> 'transformer'::regrole
    loop
        execute format(
            'alter default privileges for role transformer %s revoke all on tables from %s',
            case when this.schema::oid <> 0 then format('in schema %s', this.schema) end, this.grantee
        );
    end loop;
    -- what dbt granted to its readers stays, for reading only
    for this in
        select
            pg_class.oid::regclass as relation,
            case
                when relnamespace = 'analytics'::regnamespace and has_table_privilege('analyst', pg_class.oid, 'select') then 'analyst'
                when relnamespace = 'reports'::regnamespace and has_table_privilege('reporter', pg_class.oid, 'select') then 'reporter'
            end as reader
        from pg_class
        where relnamespace in ('analytics'::regnamespace, 'reports'::regnamespace) and relkind in ('r', 'p', 'v', 'm', 'f')
        order by pg_class.oid
    loop
        execute format('revoke all on %s from %s cascade', this.relation, other_roles);
        if this.reader is not null then
            execute format('grant select on %s to %I', this.relation, this.reader);
        end if;
    end loop;

    -- What PostgreSQL lets everyone do and nobody here needs: tables in public, and large objects, a store beside all tables.
    -- A managed server's administrator does not own these functions; REVOKE then changes nothing.
    for this in
        select nspowner::regrole as owner from pg_namespace
        where nspname = 'public' and pg_has_role(nspowner, 'set')
    loop
        execute format('set local role %s', this.owner);
        execute format('revoke all on schema public from %s cascade', pipeline_roles);
        set local role none;
    end loop;
    for this in
        select oid::regprocedure as function from pg_proc
        where
            oid in ('lo_creat(integer)'::regprocedure, 'lo_create(oid)'::regprocedure, 'lo_from_bytea(oid, bytea)'::regprocedure)
            -- a provider may have taken it from PUBLIC already
            and has_function_privilege('public', oid, 'execute')
    loop
        execute format('revoke execute on function %s from public', this.function);
    end loop;
end
$$;

-- loader: land, and nothing else; landed_at keeps its default
grant usage on schema staging to loader;
grant insert (message_id, sent_at, body, attributes) on staging.raw_logins to loader;
grant insert on staging.unjudged to loader;
grant execute on function staging.ensure_partitions(date[]), staging.body_is_wrapped(text) to loader;

-- transformer (dbt): read staging, take from the work list and put back on it, write outcomes
grant usage on schema staging, masking, marts, recovery to transformer;
grant select on staging.raw_logins, staging.unjudged_logins, staging.logins to transformer;
grant select, insert, delete on staging.unjudged to transformer;
grant select on masking.fields to transformer;
grant select, insert on marts.user_logins to transformer;
grant select, insert, delete on marts.rejected_logins to transformer;
grant select on recovery.erased_messages to transformer;
grant select, update on marts.last_run to transformer;
grant execute on function staging.begin_judging(bigint, boolean), staging.event(text), staging.leaf_paths(jsonb) to transformer;
grant execute on function staging.sender(text, jsonb), staging.names_in(jsonb) to transformer;
-- what the views and staging.event() call runs with their reader's rights; none of these holds a key
grant execute on function
staging.body_is_wrapped(text), staging.can_be_jsonb(text), staging.enveloped_event(text), staging.open_body(text), staging.envelopes(),
staging.gunzip(bytea), staging.huffman_code(integer[]), staging.read_bits(bytea, integer, integer),
staging.read_symbol(bytea, integer, integer[], integer[]),
masking.canonical_ip(text), masking.ip_number(inet), masking.network_of_ip(text, integer, integer),
masking.fault(text, text, text, text, boolean, integer),
masking.holds_personal(text, text[]), masking.may_hold_personal(text), masking.canonical_text(text, text), masking.btrim_spaces(text),
masking.token(integer, bytea, bytea, text), masking.hmac_sha256(bytea, bytea, bytea)
to transformer;

-- analyst: the views in analytics. Not the tables in reports: what an erasure has changed would be the difference between the two.
grant usage on schema analytics to analyst;

-- reporter: the tables in reports, in which no group is small
grant usage on schema reports to reporter;

-- who asks, and who allows: a reveal's four steps
grant usage on schema recovery to pii_requester, pii_approver;
grant execute on function recovery.pending_reveals() to pii_requester, pii_approver;
grant execute on function
recovery.request_reveal(text[], text, text), recovery.open_reveal(uuid), recovery.read_reveal(uuid)
to pii_requester;
grant execute on function recovery.approve_reveal(uuid) to pii_approver;

-- privacy officer: erase, expire, rotate, and the audit
grant usage on schema recovery to privacy_officer;
grant select on recovery.audit, recovery.retention, recovery.scrubs to privacy_officer;
grant execute on function
recovery.erase(text[]), recovery.scrub(regclass), recovery.set_retention(integer), recovery.expire_next(),
recovery.rotate(), recovery.verify_audit(bigint, text), recovery.audit_head()
to privacy_officer;

-- Row security on staging.raw_logins. A policy takes a lock that stops every loader, so it is made only where it differs.
do $$
declare
    wanted constant text[] := array['loader_lands PERMISSIVE INSERT {loader} - true', 'transformer_reads PERMISSIVE SELECT {transformer} true -'];
    found text[] := array(
        select concat_ws(' ', policyname, permissive, cmd, roles, coalesce(qual, '-'), coalesce(with_check, '-'))
        from pg_policies
        where schemaname = 'staging' and tablename = 'raw_logins'
        order by policyname
    );
    this record;
begin
    for this in
        select oid::regclass as relation from pg_class
        where oid in ('staging.raw_logins'::regclass, 'masking.keys'::regclass) and not relrowsecurity
    loop
        execute format('alter table %s enable row level security', this.relation);
    end loop;
    if found = wanted then
        return;
    end if;
    for this in
        select policyname from pg_policies where schemaname = 'staging' and tablename = 'raw_logins'
    loop
        execute format('drop policy %I on staging.raw_logins', this.policyname);
    end loop;
    create policy loader_lands on staging.raw_logins for insert to loader with check (true);
    create policy transformer_reads on staging.raw_logins for select to transformer using (true);
end
$$;

-- Reset what a role has set for itself. The limits keep a forgotten session from holding others up; they do not protect, because
-- each role may change them.
do $$
declare
    this record;
begin
    for this in
        values ('loader', '5min'), ('transformer', '30min'), ('analyst', '5min'), ('reporter', '5min'),
        ('pii_requester', '1min'), ('pii_approver', '1min'), ('privacy_officer', '1min')
    loop
        execute format('alter role %I reset all', this.column1);
        execute format('alter role %I in database %I reset all', this.column1, current_database());
        execute format('alter role %I set idle_in_transaction_session_timeout = %L', this.column1, this.column2);
    end loop;
end
$$;
-- An increment that is not large is sorted in memory. Parallel workers share no hash table: it would lie in /dev/shm,
-- of which a container has 64 MB unless told otherwise.
alter role transformer set work_mem = '64MB';
alter role transformer set enable_parallel_hash = off;
alter role analyst set default_transaction_read_only = on;
alter role analyst set statement_timeout = '5min';
alter role reporter set default_transaction_read_only = on;
alter role reporter set statement_timeout = '5min';
alter role pii_requester set statement_timeout = '1min';
alter role pii_approver set statement_timeout = '1min';

-- The server's log keeps no error of this database, which may quote a value (the client gets it), no statement that failed, and no
-- parameter. Set for the database and not for each role, because a person logs in with a role of their own, which does not inherit
-- the settings of a group. Where the administrator may not set it (a managed server), the server's own settings must.
do $$
declare
    setting record;
begin
    for setting in
        select wanted.*
        from unnest(
            array['log_min_messages', 'log_min_error_statement', 'log_parameter_max_length', 'log_parameter_max_length_on_error'],
            array['log', 'panic', '0', '0']
        ) as wanted (name, value)
        where has_parameter_privilege(wanted.name, 'set')
    loop
        execute format('alter database %I set %I = %L', current_database(), setting.name, setting.value);
    end loop;
    execute format('alter database %I set idle_in_transaction_session_timeout = %L', current_database(), '30min');
end
$$;

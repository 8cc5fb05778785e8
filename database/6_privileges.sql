-- Who may do what: the only place that says it, but for which role is a member of which (1_roles.sql). Run on every migrate, so
-- that what was granted by hand besides is taken back. An analyst's grants on the views are in dbt_project/dbt_project.yml, where
-- the views are made. tests/access/privileges.txt lists, from the catalog, what comes of it.

-- Nobody has what is not given below; what somebody gave on from there goes with it.
do $$
begin
    execute format(
        'revoke all on database %I from public, loader, transformer, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade',
        current_database()
    );
    execute format(
        'grant connect on database %I to loader, transformer, analyst, pii_requester, pii_approver, privacy_officer', current_database()
    );
    -- dbt builds each increment in a temporary table and compares each view with a temporary one; the loader lands a batch through one
    execute format('grant temporary on database %I to loader, transformer', current_database());
end
$$;
revoke all on schema public, staging, masking, recovery
from public, loader, transformer, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
revoke all on schema marts, analytics
from public, loader, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
revoke all on all tables in schema staging, masking, recovery
from public, loader, transformer, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
revoke all on all tables in schema marts
from public, loader, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
revoke all on all tables in schema analytics
from public, loader, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
do $$
declare
    granted regclass;
begin
    -- what dbt gave an analyst stays, to be read and no more
    for granted in
        select oid from pg_class
        where
            relnamespace = 'analytics'::regnamespace
            and relkind in ('r', 'p', 'v', 'm', 'f')
            and has_table_privilege('analyst', oid, 'select')
        order by oid
    loop
        execute format('revoke all on %s from analyst cascade', granted);
        execute format('grant select on %s to analyst', granted);
    end loop;
end
$$;
revoke all on all functions in schema staging, masking
from public, loader, transformer, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
revoke all on all functions in schema recovery
from public, loader, transformer, analyst, pii_requester, pii_approver, privacy_officer cascade;
revoke all on all functions in schema marts, analytics
from public, loader, analyst, pii_requester, pii_approver, privacy_officer, marts_keeper cascade;
do $$
declare
    anothers regprocedure;
begin
    -- its own functions it must be able to run
    for anothers in
        select oid from pg_proc
        where pronamespace = 'recovery'::regnamespace and proowner <> 'marts_keeper'::regrole
    loop
        execute format('revoke all on function %s from marts_keeper cascade', anothers);
    end loop;
end
$$;

-- loader: land, and nothing else; the columns that it may not set (landed_at, landed_xid) keep their defaults
grant usage on schema staging to loader;
grant insert (message_id, sent_at, body) on staging.raw_logins to loader;
drop policy if exists loader_lands on staging.raw_logins;
create policy loader_lands on staging.raw_logins for insert to loader with check (true);
grant execute on function staging.ensure_partitions(date[]) to loader;

-- transformer (dbt): read staging, move its own watermarks, have messages judged again, call the maskers
grant usage on schema staging, masking to transformer;
grant select on staging.raw_logins to transformer;
drop policy if exists transformer_reads on staging.raw_logins;
create policy transformer_reads on staging.raw_logins for select to transformer using (true);
grant select, insert, update on staging.watermarks to transformer;
grant execute on function
staging.open_window(text, text), staging.landed_from(), staging.landed_before(), staging.close_window(),
staging.judge_again(text[]), staging.resume_here()
to transformer;
grant execute on function
masking.canonical_ip(text), masking.network_of_ip(text), masking.token(text, text), masking.tokens(text, text[]),
masking.partial_ip(text), masking.partial_device_id(text), masking.partial_email(text)
to transformer;

-- analyst: the views in analytics
grant usage on schema analytics to analyst;

-- What PostgreSQL lets everyone do, and nobody here needs: large objects, a store of their own beside all tables, and advisory
-- locks, with which a reader could stop a migrate. Where the administrator does not own these functions (a managed server),
-- both statements change nothing and warn.
do $$
declare
    open_to_all regprocedure;
begin
    for open_to_all in
        select oid::regprocedure from pg_proc
        where
            pronamespace = 'pg_catalog'::regnamespace
            and proname ~ '^(lo_creat|lo_create|lo_from_bytea|pg_(try_)?advisory_(xact_)?lock(_shared)?)$'
        order by oid
    loop
        execute format('revoke execute on function %s from public', open_to_all);
        if open_to_all::text ~ 'advisory' then
            execute format('grant execute on function %s to pipeline_owner, transformer', open_to_all);
        end if;
    end loop;
end
$$;

-- What a role has set for itself goes; the limits keep a forgotten session from holding the pipeline up. They are no guard:
-- each role may set them otherwise.
do $$
declare
    this_role text;
begin
    foreach this_role in array array['loader', 'transformer', 'analyst', 'pii_requester', 'pii_approver', 'privacy_officer'] loop
        execute format('alter role %I reset all', this_role);
        execute format('alter role %I in database %I reset all', this_role, current_database());
    end loop;
end
$$;
alter role loader set idle_in_transaction_session_timeout = '5min';
alter role transformer set idle_in_transaction_session_timeout = '30min';
-- A window that is not large is sorted in memory. What is joined is not in memory that parallel workers share: that is /dev/shm,
-- of which a container has 64 MB unless told otherwise.
alter role transformer set work_mem = '64MB';
alter role transformer set enable_parallel_hash = off;
alter role analyst set default_transaction_read_only = on;
alter role analyst set statement_timeout = '5min';
alter role analyst set idle_in_transaction_session_timeout = '5min';
alter role pii_requester set statement_timeout = '1min';
alter role pii_requester set idle_in_transaction_session_timeout = '1min';
alter role pii_approver set statement_timeout = '1min';
alter role pii_approver set idle_in_transaction_session_timeout = '1min';
alter role privacy_officer set idle_in_transaction_session_timeout = '1min';

-- Of this database the server's log keeps no error, which may quote a value (the client gets it), no statement that failed, and no
-- parameter. Said of the database and not of each role, for a person logs in with a role of their own, which inherits what a group may
-- and not what is set for it. Where the administrator may not say so (a managed server), the server's own settings must.
do $$
declare
    quiet record;
begin
    for quiet in
        select
            wanted.name,
            wanted.value
        from (
            values
            ('log_min_messages', 'log'), ('log_min_error_statement', 'panic'),
            ('log_parameter_max_length', '0'), ('log_parameter_max_length_on_error', '0')
        ) as wanted (name, value)
        where has_parameter_privilege(wanted.name, 'set')
    loop
        execute format('alter database %I set %I = %L', current_database(), quiet.name, quiet.value);
    end loop;
    -- such a person's forgotten session would hold dbt's window back
    execute format('alter database %I set idle_in_transaction_session_timeout = %L', current_database(), '30min');
end
$$;

-- Recovery.
-- marts_keeper: what dbt may (database/1_roles.sql), the pairs of tokens in a rotation, and what its functions call, which runs as itself
grant usage on schema recovery to marts_keeper;
grant select on recovery.rotated_tokens to marts_keeper;
grant execute on function recovery.require_keeper(text), recovery.rewrite(regclass) to marts_keeper;

-- transformer (dbt): keep erased persons out, and prove it
grant usage on schema recovery to transformer;
grant execute on function recovery.purge_erased() to transformer;
grant select on recovery.erased_messages to transformer;

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
recovery.erase(text), recovery.scrub(regclass),
recovery.set_retention(integer), recovery.expire_next(), recovery.forget_stale(),
recovery.begin_rotation(), recovery.map_tokens(integer), recovery.swap_tokens(),
recovery.verify_audit(bigint, text), recovery.audit_head()
to privacy_officer;

-- Who may do what: the only place that says it. Run on every migrate, so that what was granted by hand besides
-- is taken back. An analyst's grants on the views are in dbt_project/dbt_project.yml, where the views are made.
-- tests/access/privileges.txt lists, from the catalog, what comes of it.

-- Nobody has what is not given below.
do $$
begin
    execute format('revoke all on database %I from public, loader, transformer, analyst, pii_requester, pii_approver', current_database());
    execute format('grant connect on database %I to loader, transformer, analyst, pii_requester, pii_approver', current_database());
    -- dbt builds each increment in a temporary table; the loader lands a batch through one
    execute format('grant temporary on database %I to loader, transformer', current_database());
end
$$;
revoke all on schema public from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on schema staging, masking, recovery from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on schema marts, analytics from public, loader, analyst, pii_requester, pii_approver;
revoke all on all tables in schema staging, masking, recovery
from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on all tables in schema marts from public, loader, analyst, pii_requester, pii_approver;
revoke all on all tables in schema analytics from public, loader, pii_requester, pii_approver;
revoke insert, update, delete, truncate, references, trigger on all tables in schema analytics from analyst;
revoke all on all functions in schema staging, masking, recovery
from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on all functions in schema marts, analytics from public, loader, analyst, pii_requester, pii_approver;

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
alter role loader reset all;
alter role transformer reset all;
alter role analyst reset all;
alter role pii_requester reset all;
alter role pii_approver reset all;
alter role privacy_officer reset all;
alter role loader set idle_in_transaction_session_timeout = '5min';
alter role transformer set idle_in_transaction_session_timeout = '30min';
alter role analyst set default_transaction_read_only = on;
alter role analyst set statement_timeout = '5min';
alter role analyst set idle_in_transaction_session_timeout = '5min';
alter role pii_requester set statement_timeout = '1min';
alter role pii_requester set idle_in_transaction_session_timeout = '1min';
alter role pii_approver set statement_timeout = '1min';
alter role pii_approver set idle_in_transaction_session_timeout = '1min';
alter role privacy_officer set idle_in_transaction_session_timeout = '1min';

-- Of the roles that handle plain text, the server's log keeps no error, which may quote a value (the client gets it), and no
-- parameter. Only a superuser may say so here; elsewhere the server's own settings must.
do $$
declare
    handles_plain_text text;
begin
    if not (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;

    foreach handles_plain_text in array array['loader', 'transformer', 'pii_requester', 'pii_approver', 'privacy_officer'] loop
        execute format('alter role %I set log_min_messages = log', handles_plain_text);
        execute format('alter role %I set log_parameter_max_length = 0', handles_plain_text);
    end loop;
end
$$;

-- Recovery.
do $$
begin
    execute format('revoke all on database %I from privacy_officer, marts_keeper', current_database());
    execute format('grant connect on database %I to privacy_officer', current_database());
end
$$;
revoke all on schema staging, masking, recovery, marts, analytics from privacy_officer, marts_keeper;
revoke all on all tables in schema staging, masking, recovery, marts, analytics from privacy_officer, marts_keeper;
revoke all on all functions in schema staging, masking from privacy_officer, marts_keeper;
revoke all on all functions in schema recovery from privacy_officer;

-- marts_keeper: what dbt may (database/1_roles.sql), and the pairs of tokens in a rotation
grant usage on schema recovery to marts_keeper;
grant select on recovery.rotated_tokens to marts_keeper;

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

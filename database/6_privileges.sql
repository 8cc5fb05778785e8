-- Who may do what: the only place that says it. Run on every migrate, so that what was granted by hand besides
-- is taken back. An analyst's grants on the views are in dbt_project/dbt_project.yml, where the views are made.

-- Nobody has what is not given below.
do $$
begin
    execute format('revoke all on database %I from public, loader, transformer, analyst, pii_requester, pii_approver', current_database());
    execute format('grant connect on database %I to loader, transformer, analyst, pii_requester, pii_approver', current_database());
    -- dbt builds each increment in a temporary table; the loader lands a batch through one
    execute format('grant temporary on database %I to loader, transformer', current_database());
end
$$;
revoke all on schema public from public;
revoke all on schema staging, masking, recovery from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on schema marts, analytics from public, loader, analyst, pii_requester, pii_approver;
revoke all on all tables in schema staging, masking, recovery from public, loader, transformer, analyst, pii_requester, pii_approver;
revoke all on all tables in schema marts from public, loader, analyst, pii_requester, pii_approver;
revoke all on all functions in schema staging, masking, recovery
from public, loader, transformer, analyst, pii_requester, pii_approver;

-- loader: land, and nothing else; the columns that it may not set (landed_at, landed_xid) keep their defaults
grant usage on schema staging to loader;
grant insert (message_id, sent_at, body) on staging.raw_logins to loader;
grant execute on function staging.ensure_partitions(date[]) to loader;

-- transformer (dbt): read staging, move its own watermarks, have messages judged again, call the maskers
grant usage on schema staging, masking to transformer;
grant select on staging.raw_logins to transformer;
grant select, insert, update on staging.watermarks to transformer;
grant execute on function
staging.open_window(text, text), staging.landed_from(), staging.landed_before(), staging.close_window(),
staging.judge_again(text []), staging.resume_here()
to transformer;
grant execute on function
masking.canonical_ip(text), masking.token(text, text), masking.tokens(text, text[])
to transformer;

-- analyst: the views in analytics
grant usage on schema analytics to analyst;

-- Limits, so that no forgotten session holds the pipeline up.
alter role analyst set default_transaction_read_only = on;
alter role analyst set statement_timeout = '5min';
alter role analyst set idle_in_transaction_session_timeout = '5min';
alter role transformer set idle_in_transaction_session_timeout = '30min';
alter role loader set idle_in_transaction_session_timeout = '5min';

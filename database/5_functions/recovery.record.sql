-- Appends one row to the audit. Acts that run at once wait for one another here until their transactions end: a chain has one end.
create or replace function recovery.record(act text, details jsonb)
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    last_entry recovery.audit;
    recorded_at constant timestamptz := clock_timestamp();
    entry bigint;
    previous_seal bytea;
begin
    lock table recovery.audit in share row exclusive mode;
    select audit.* into last_entry from recovery.audit order by audit.entry desc limit 1;
    entry := coalesce(last_entry.entry, 0) + 1;
    previous_seal := coalesce(last_entry.seal, decode(repeat('00', 32), 'hex'));
    insert into recovery.audit (entry, recorded_at, actor, act, details, previous_seal, seal)
    values (
        entry, recorded_at, session_user, record.act, record.details, previous_seal,
        recovery.audit_seal(previous_seal, entry, recorded_at, session_user, record.act, record.details)
    );
end
$$;

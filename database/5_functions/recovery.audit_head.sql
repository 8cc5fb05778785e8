-- The audit's last entry, to be kept where nobody who administers this server can change it; see recovery.verify_audit().
create or replace function recovery.audit_head()
returns table (entry bigint, seal text) language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select
        audit.entry,
        encode(audit.seal, 'hex') as seal
    from recovery.audit
    order by audit.entry desc
    limit 1;
end;

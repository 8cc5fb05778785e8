-- Makes the audit append-only, for its owner and in a replication session too. A role that may drop a trigger can still change it:
-- the chain of hashes and the anchor show that.
create or replace function recovery.refuse_change()
returns trigger language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'the audit is append-only; % is refused', lower(tg_op) using errcode = 'insufficient_privilege';
end
$$;

-- only where it is missing or disabled: creating it locks the table
do $$
begin
    if not exists (select from pg_trigger where tgrelid = 'recovery.audit'::regclass and tgname = 'refuse_change' and tgenabled = 'A') then
        create or replace trigger refuse_change before update or delete or truncate on recovery.audit
        for each statement execute function recovery.refuse_change();
        alter table recovery.audit enable always trigger refuse_change;
    end if;
end
$$;

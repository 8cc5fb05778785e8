-- What makes the audit append-only, for its owner and for a replication session too. Whoever may drop a trigger can still change it:
-- that is what the chain of hashes and the anchor are for.
create or replace function recovery.refuse_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'the audit is append-only; % is refused', lower(tg_op)
        using errcode = 'insufficient_privilege';
end
$$;

comment on function recovery.refuse_change() is 'Refuses to change, delete or truncate what was recorded.';

create or replace trigger refuse_change before update or delete or truncate on recovery.audit
for each statement execute function recovery.refuse_change();
alter table recovery.audit enable always trigger refuse_change;

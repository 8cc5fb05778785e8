-- Refuses repeatable read and serializable: a snapshot taken before an act has its locks hides what was committed until then.
create or replace function recovery.require_read_committed()
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') != 'read committed' then
        raise exception 'this act runs in read committed transactions only; this one is %', current_setting('transaction_isolation')
            using errcode = 'active_sql_transaction', hint = 'begin transaction isolation level read committed';
    end if;
end
$$;

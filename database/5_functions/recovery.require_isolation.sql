-- An act must see what was committed until it had its locks (read committed), a dbt model no more than that (repeatable read).
create or replace function recovery.require_isolation(wanted text)
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') != wanted then
        raise exception 'this runs in % transactions only; this one is %', wanted, current_setting('transaction_isolation')
            using errcode = 'active_sql_transaction', hint = 'begin transaction isolation level ' || wanted;
    end if;
end
$$;

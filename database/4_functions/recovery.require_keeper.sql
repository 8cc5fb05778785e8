-- For the functions that change dbt's tables as marts_keeper (database/1_roles.sql says why): a trigger on such a table runs as the
-- function's owner, and may have had the function run as its caller from then on, who reads the keys. Refuses that.
create or replace function recovery.require_keeper(function_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user != 'marts_keeper' then
        raise exception '%() runs as %, not as marts_keeper: somebody altered it', function_name, current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;
end
$$;

comment on function recovery.require_keeper(text) is 'Refuses to let a function of marts_keeper''s run as anybody else.';

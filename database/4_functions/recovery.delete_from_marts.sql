-- Deletes a person's logins, and the rejections of the given messages. Runs as marts_keeper: see database/1_roles.sql.
create or replace function recovery.delete_from_marts(user_id text, message_ids text[])
returns table (logins bigint, rejections bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform recovery.require_keeper('delete_from_marts');

    logins := 0;
    rejections := 0;

    if to_regclass('marts.user_logins') is not null then
        -- by user, for the raw message may have expired; by message, for the rest
        delete from marts.user_logins as login
        where login.user_id = delete_from_marts.user_id or login.message_id = any(message_ids);
        get diagnostics logins = row_count;
    end if;

    if to_regclass('marts.rejected_logins') is not null then
        delete from marts.rejected_logins as rejected where rejected.message_id = any(message_ids);
        get diagnostics rejections = row_count;
    end if;

    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    return next;
end
$$;

alter function recovery.delete_from_marts(text, text[]) owner to marts_keeper;

comment on function recovery.delete_from_marts(text, text[]) is 'Deletes a person''s logins, and the rejections of the given messages.';

-- Deletes a person's logins, and the rejections of the given messages. Runs as marts_keeper: see database/1_roles.sql.
create or replace function recovery.delete_from_marts(user_id text, message_ids text[])
returns table (logins bigint, rejections bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- a trigger on dbt's table runs as this function's owner and may have had it run as its caller
    if current_user operator(pg_catalog.!=) 'marts_keeper' then
        raise exception 'delete_from_marts() runs as %, not as marts_keeper: somebody altered it', current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;

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

    return next;
end
$$;

alter function recovery.delete_from_marts(text, text[]) owner to marts_keeper;

comment on function recovery.delete_from_marts(text, text[]) is 'Deletes a person''s logins, and the rejections of the given messages.';

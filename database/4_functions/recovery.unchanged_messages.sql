-- The messages of logins that carry a token of before in any column named masked_…, once recovery.change_tokens() has run. Runs as
-- marts_keeper: see database/1_roles.sql.
create or replace function recovery.unchanged_messages()
returns table (message_id text, sent_at timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    statement text;
begin
    -- a trigger on dbt's table runs as this function's owner and may have had it run as its caller
    if current_user operator(pg_catalog.!=) 'marts_keeper' then
        raise exception 'unchanged_messages() runs as %, not as marts_keeper: somebody altered it', current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;

    select format(
        'select logins.message_id, logins.sent_at from marts.user_logins as logins %s where %s',
        string_agg(format('left join recovery.rotated_tokens as %1$I on logins.%2$I = %1$I.new_token', 'pair_of_' || attname, attname), ' '),
        string_agg(format('logins.%2$I is not null and %1$I.new_token is null', 'pair_of_' || attname, attname), ' or ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;

    if statement is not null then
        return query execute statement;
    end if;
end
$$;

alter function recovery.unchanged_messages() owner to marts_keeper;

comment on function recovery.unchanged_messages() is 'The messages of logins that carry a token of before the rotation in progress.';

-- Changes the tokens of all logins, in every column named masked_…, by the pairs in recovery.rotated_tokens. Runs as marts_keeper:
-- see database/1_roles.sql.
create or replace function recovery.change_tokens()
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    statement text;
    changed bigint := 0;
begin
    -- a trigger on dbt's table runs as this function's owner and may have had it run as its caller
    if current_user operator(pg_catalog.!=) 'marts_keeper' then
        raise exception 'change_tokens() runs as %, not as marts_keeper: somebody altered it', current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;

    select format(
        'with changes as ('
        ' select logins.message_id, %s from marts.user_logins as logins %s where %s'
        ') update marts.user_logins as logins set %s from changes where logins.message_id = changes.message_id',
        string_agg(format('coalesce(%1$I.new_token, logins.%2$I) as %2$I', 'pair_of_' || attname, attname), ', '),
        string_agg(format('left join recovery.rotated_tokens as %1$I on logins.%2$I = %1$I.old_token', 'pair_of_' || attname, attname), ' '),
        string_agg(format('%I.new_token is not null', 'pair_of_' || attname), ' or '),
        string_agg(format('%1$I = changes.%1$I', attname), ', ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;

    if statement is not null then
        execute statement;
        get diagnostics changed = row_count;
    end if;
    return changed;
end
$$;

alter function recovery.change_tokens() owner to marts_keeper;

comment on function recovery.change_tokens() is
'Changes the tokens of all logins as the rotation in progress has paired them; returns how many logins.';

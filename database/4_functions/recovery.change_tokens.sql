-- Changes the tokens of all logins, in every column named masked_…, by the pairs in recovery.rotated_tokens. Returns how many logins
-- changed, how many keep a token that has no pair, and how many of those have their raw message still, which must not be.
-- Runs as marts_keeper: see database/1_roles.sql.
create or replace function recovery.change_tokens()
returns table (changed_logins bigint, kept_logins bigint, unexplained_logins bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- so that most pairs fit into memory
set work_mem = '64MB'
as $$
declare
    statement text;
    to_change bigint;
begin
    perform recovery.require_keeper('change_tokens');

    select format(
        'with changes as materialized ('
        ' select logins.ctid as place, logins.message_id, logins.sent_at, %s, %s as is_changed, %s as is_kept'
        ' from marts.user_logins as logins %s'
        '), changed as ('
        ' update marts.user_logins as logins set %s from changes where logins.ctid = changes.place and changes.is_changed returning 1'
        '), kept as ('
        ' select message_id, sent_at from changes where is_kept'
        ') select'
        ' (select count(*) from changed), (select count(*) from changes where is_changed), (select count(*) from kept),'
        ' (select count(*) from kept inner join staging.raw_logins'
        ' on kept.message_id = raw_logins.message_id and kept.sent_at = raw_logins.sent_at)',
        string_agg(format('coalesce(%1$I.new_token, logins.%2$I) as %2$I', 'pair_of_' || attname, attname), ', '),
        '(' || string_agg(format('%I.new_token is not null', 'pair_of_' || attname), ' or ') || ')',
        '(' || string_agg(format('logins.%2$I is not null and %1$I.new_token is null', 'pair_of_' || attname, attname), ' or ') || ')',
        string_agg(format('left join recovery.rotated_tokens as %1$I on logins.%2$I = %1$I.old_token', 'pair_of_' || attname, attname), ' '),
        string_agg(format('%1$I = changes.%1$I', attname), ', ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;

    if statement is null then
        return query values (0::bigint, 0::bigint, 0::bigint);
        return;
    end if;

    -- a row is found by its place, which nobody may change meanwhile; readers go on
    lock table marts.user_logins in share row exclusive mode;
    execute statement into changed_logins, to_change, kept_logins, unexplained_logins;
    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    if changed_logins != to_change then
        raise exception '% of % logins were changed; the others are held back by something on marts.user_logins', changed_logins, to_change
            using errcode = 'data_exception', hint = 'drop its triggers and rules, then rotate again';
    end if;
    return next;
end
$$;

alter function recovery.change_tokens() owner to marts_keeper;

comment on function recovery.change_tokens() is
'Changes the tokens of all logins as the rotation in progress has paired them; returns how many changed, keep one, and should not.';

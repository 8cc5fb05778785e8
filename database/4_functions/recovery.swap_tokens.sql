-- Ends a rotation in one transaction: the tokens change, the next keys take effect, the old ones are gone. Readers see all
-- tokens of before or all of after, and are not made to wait; dbt waits, and masks with the new keys when it goes on.
-- Equal tokens stay equal, for each is changed by the pair that recovery.rotated_tokens has for it. A login whose value is in no raw
-- message any more keeps its token: without the old key it can no longer be linked to what arrives from now on.
create or replace function recovery.swap_tokens()
returns table (changed_logins bigint, kept_logins bigint, changed_tokens bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- as in masking.tokens(): no plan that holds the keys as a constant
set plan_cache_mode = force_generic_plan
as $$
declare
    keys_to_keep masking.keys[];
    unexplained bigint;
    versions jsonb;
begin
    perform recovery.refuse_old_snapshot();
    lock table staging.watermarks in share row exclusive mode;
    -- what dbt has taken since the last batch
    while recovery.map_tokens(200000) > 0 loop
    end loop;
    analyze recovery.rotated_tokens;

    changed_tokens := (select count(*) from recovery.rotated_tokens);
    select
        logins.changed_logins,
        logins.kept_logins,
        logins.unexplained_logins
    into changed_logins, kept_logins, unexplained
    from recovery.change_tokens() as logins;
    -- every login whose raw message is there must have changed; if not, dbt masks in a way that recovery.masked_values() does not know
    if unexplained > 0 then
        raise exception '% logins carry a token that is not made of their message', unexplained
            using errcode = 'data_exception', hint = 'after a restore, dbt run comes first; else recovery.masked_values() does not follow the model user_logins';
    end if;

    versions := (select jsonb_object_agg(next_keys.domain, next_keys.version) from recovery.next_keys);
    keys_to_keep := array(
        select keys from masking.keys where keys.domain not in (select next_keys.domain from recovery.next_keys)
    ) || array(
        select row(next_keys.*)::masking.keys from recovery.next_keys
    );
    -- TRUNCATE gives the tables new files and removes the old ones with their bytes, which DELETE leaves
    truncate masking.keys, recovery.next_keys, recovery.rotated_tokens, recovery.rotation;
    insert into masking.keys select * from unnest(keys_to_keep);

    insert into recovery.scrubs (relation)
    select to_regclass('marts.user_logins') as relation
    where changed_logins > 0
    on conflict (relation) do update set deleted_xid = excluded.deleted_xid;

    perform recovery.record('rotated', jsonb_build_object(
        'versions', versions, 'changed_logins', changed_logins, 'kept_logins', kept_logins, 'changed_tokens', changed_tokens
    ));
    return next;
end
$$;

comment on function recovery.swap_tokens() is
'Ends a rotation: tokens and keys change in one transaction; returns how many logins changed, kept their tokens, and how many tokens.';

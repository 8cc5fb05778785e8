-- Changes the masking keys and every token whose value is still in a raw message, in one transaction: readers do not wait, and see all
-- old tokens or all new ones. Equal tokens stay equal: each is changed by its pair of old and new token. A token whose value is in no
-- raw message any more stays, and cannot be linked to later logins. The key of tombstones does not rotate: they cannot be remade.
create or replace function recovery.rotate()
returns table (changed_logins bigint, kept_logins bigint, changed_tokens bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- no plan holds the keys as a constant; whole tables are joined, by hash: its cost holds when the planner's estimates are old
set plan_cache_mode = force_generic_plan
set work_mem = '64MB'
set enable_nestloop = off
set enable_mergejoin = off
-- dbt takes these locks in the other order: give way before the deadlock detector ends a run
set lock_timeout = '500ms'
as $$
declare
    old_keys masking.keys[];
    versions jsonb;
    unexplained bigint;
begin
    perform recovery.require_isolation('read committed');
    -- the heaviest lock first: whoever has read through the masking views is waited for before anything is written
    lock table masking.keys in access exclusive mode;
    lock table only marts.rejected_logins in share update exclusive mode;
    perform recovery.require_attached();

    old_keys := array(select keys from masking.keys);
    -- TRUNCATE gives the table a new file and removes the old one with its bytes, which an update or a delete would leave
    truncate masking.keys;
    insert into masking.keys
    select * from unnest(old_keys) as old_key where old_key.domain = 'erased_user';
    perform masking.create_key(old_key.domain, old_key.version + 1) from unnest(old_keys) as old_key where old_key.domain != 'erased_user';
    versions := (select jsonb_object_agg(keys.domain, keys.version) from masking.keys where keys.domain != 'erased_user');

    -- the keys of this table prove that old and new tokens match one to one
    create temporary table pairs (old_token text primary key, new_token text not null unique) on commit drop;
    alter table pg_temp.pairs alter column old_token set statistics 0, alter column new_token set statistics 0;
    insert into pg_temp.pairs (old_token, new_token)
    select
        masking.token(old_key.version, old_key.inner_block, old_key.outer_block, plain.canonical_value) as old_token,
        masking.token(keys.version, keys.inner_block, keys.outer_block, plain.canonical_value) as new_token
    from (select distinct personal_values.domain, personal_values.canonical_value from staging.personal_values) as plain
    inner join masking.keys on plain.domain = keys.domain
    inner join unnest(old_keys) as old_key on plain.domain = old_key.domain;
    get diagnostics changed_tokens = row_count;
    analyze pg_temp.pairs;

    with
    changes as (
        select
            login_tokens.message_id,
            login_tokens.sent_at,
            jsonb_object_agg(login_tokens.column_name, pairs.new_token) as new_tokens
        from recovery.login_tokens
        inner join pg_temp.pairs on login_tokens.token = pairs.old_token
        group by login_tokens.message_id, login_tokens.sent_at
    ),

    deleted as (
        delete from marts.user_logins using changes
        where user_logins.message_id = changes.message_id and user_logins.sent_at = changes.sent_at
        returning user_logins as login, changes.new_tokens
    ),

    inserted as (
        insert into marts.user_logins
        select login.*
        from deleted
        cross join lateral jsonb_populate_record(deleted.login, deleted.new_tokens) as login
        returning user_logins.tableoid
    ),

    to_scrub as (
        insert into recovery.scrubs (relation)
        select distinct inserted.tableoid::regclass
        from inserted
        on conflict (relation) do update set deleted_at = excluded.deleted_at
    )

    select count(*) into changed_logins from inserted;

    select
        count(distinct (kept.message_id, kept.sent_at)),
        count(raw_logins.message_id)
    into kept_logins, unexplained
    from (
        select login_tokens.message_id, login_tokens.sent_at from recovery.login_tokens
        where not exists (select from pg_temp.pairs where pairs.new_token = login_tokens.token)
    ) as kept
    left join staging.raw_logins on kept.message_id = raw_logins.message_id and kept.sent_at = raw_logins.sent_at;
    -- every token whose raw message is there must have changed
    if unexplained > 0 then
        raise exception '% tokens are not made of their message', unexplained
            using errcode = 'data_exception', hint = 'a rule in database/6_fields.sql changed after they were made; rotate under the earlier rule first';
    end if;

    perform recovery.record('rotated', jsonb_build_object(
        'versions', versions, 'changed_logins', changed_logins, 'kept_logins', kept_logins, 'changed_tokens', changed_tokens
    ));
    return next;
end
$$;

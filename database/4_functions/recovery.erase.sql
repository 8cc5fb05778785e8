-- Erases a person: raw messages in every partition, rejected ones too, and the rows made of them. The tombstone keeps
-- the person's redelivered, replayed and new messages out: recovery.purge_erased() deletes them before dbt masks.
-- The deleted rows' bytes are left to recovery.scrub(). Once more for the same person is harmless.
create or replace function recovery.erase(user_id text)
returns table (raw_messages bigint, logins bigint, rejections bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    message_ids text[];
begin
    perform recovery.refuse_old_snapshot();
    if length(btrim(user_id)) > 0 is not true then
        raise exception 'no user_id is given' using errcode = 'invalid_parameter_value';
    end if;

    -- dbt's models take turns with this: one that has read the person's messages already is waited for
    lock table staging.watermarks in share row exclusive mode;

    insert into recovery.tombstones (user_token) values (masking.token('erased_user', erase.user_id))
    on conflict do nothing;

    with

    deleted as (

        delete from staging.raw_logins
        -- most bodies are told apart without being parsed; a backslash may hide letters
        where (strpos(raw_logins.body, erase.user_id) > 0 or strpos(raw_logins.body, '\') > 0)
            and recovery.names_user(raw_logins.body, erase.user_id)
        returning raw_logins.message_id, raw_logins.sent_at, raw_logins.tableoid

    ),

    remembered as (

        insert into recovery.erased_messages (message_id, sent_at)
        select
            deleted.message_id,
            deleted.sent_at
        from deleted
        on conflict do nothing

    ),

    to_scrub as (

        insert into recovery.scrubs (relation)
        select distinct deleted.tableoid::regclass
        from deleted
        on conflict (relation) do update set deleted_xid = excluded.deleted_xid

    )

    select coalesce(array_agg(deleted.message_id), '{}') into message_ids from deleted;

    select
        cardinality(message_ids),
        deleted.logins,
        deleted.rejections
    into raw_messages, logins, rejections
    from recovery.delete_from_marts(erase.user_id, message_ids) as deleted;

    insert into recovery.scrubs (relation)
    select touched.relation
    from (values (to_regclass('marts.user_logins'), logins), (to_regclass('marts.rejected_logins'), rejections))
        as touched (relation, deleted)
    where touched.deleted > 0
    on conflict (relation) do update set deleted_xid = excluded.deleted_xid;

    perform recovery.record('erased', jsonb_build_object(
        'raw_messages', raw_messages, 'logins', logins, 'rejections', rejections
    ));
    return next;
end
$$;

comment on function recovery.erase(text) is 'Erases a person, for good; returns how many raw messages, logins and rejections went.';

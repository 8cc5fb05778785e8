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
    sent_ats timestamptz[];
begin
    perform recovery.refuse_old_snapshot();
    if length(btrim(user_id)) > 0 is not true then
        raise exception 'no user_id is given' using errcode = 'invalid_parameter_value';
    end if;

    -- dbt's models take turns with this: one that has read the person's messages already is waited for
    lock table staging.watermarks in share row exclusive mode;

    insert into recovery.tombstones (user_token) values (masking.token('erased_user', erase.user_id))
    on conflict do nothing;

    select
        coalesce(array_agg(raw_login.message_id), '{}'),
        array_agg(raw_login.sent_at)
    into message_ids, sent_ats
    from staging.raw_logins as raw_login
    -- most bodies are told apart without being parsed; a backslash may hide letters, and a number has many spellings
    where (
        strpos(raw_login.body, erase.user_id) > 0
        or strpos(raw_login.body, '\') > 0
        or erase.user_id ~ '^-?[0-9]+([.][0-9]+)?$'
    )
        and recovery.names_user(raw_login.body, erase.user_id);

    raw_messages := recovery.delete_messages(message_ids, sent_ats);

    select
        deleted.logins,
        deleted.rejections
    into logins, rejections
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

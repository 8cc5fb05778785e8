-- Erases persons, in one pass over the raw messages: theirs in every partition, rejected ones too, and the rows made of them. The
-- tombstones keep their redelivered, replayed and new messages out: staging.begin_judging() deletes them before dbt masks.
-- The deleted rows' bytes are left to recovery.scrub(). Returns one row per person, in the order given. Harmless twice.
create or replace function recovery.erase(user_ids text[])
returns table (person integer, raw_messages bigint, logins bigint, rejections bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    details jsonb;
begin
    perform recovery.require_isolation('read committed');
    if cardinality(user_ids) > 0 is not true
        or exists (select from unnest(user_ids) as id where coalesce(recovery.canonical_user_id(id), '') = '') then
        raise exception 'a user_id is empty, or none is given' using errcode = 'invalid_parameter_value';
    end if;
    perform recovery.require_attached();

    -- dbt's models take turns with this: one that has read the persons' messages already is waited for
    lock table only marts.rejected_logins in share update exclusive mode;

    -- a batch is of several persons
    perform staging.split_batches('infinity');

    insert into recovery.tombstones (user_token)
    select masking.token(keys.version, keys.inner_block, keys.outer_block, recovery.canonical_user_id(id))
    from unnest(user_ids) as id
    inner join masking.keys on keys.domain = 'erased_user'
    on conflict do nothing;

    for person, raw_messages, logins, rejections, details in
    with
    persons as (
        select
            given.person::integer as person,
            recovery.canonical_user_id(given.id) as user_id
        from unnest(user_ids) with ordinality as given (id, person)
    ),

    messages as materialized (
        select
            message_users.message_id,
            message_users.sent_at,
            message_users.user_id,
            case when message_users.user_id is null then recovery.searchable_text(message_users.body) end as searchable_text
        from staging.message_users
        where message_users.user_id is null or message_users.user_id in (select persons.user_id from persons)
    ),

    about_persons as materialized (
        select
            persons.person,
            messages.message_id,
            messages.sent_at
        from messages
        inner join persons
            on messages.user_id = persons.user_id
                or (messages.user_id is null and recovery.mentions_user(messages.searchable_text, persons.user_id))
    ),

    deleted_messages as materialized (
        select recovery.delete_messages(array_agg(about_persons.message_id), array_agg(about_persons.sent_at)) as raw_messages
        from about_persons
    ),

    deleted_logins as (
        delete from marts.user_logins
        where recovery.canonical_user_id(user_logins.user_id) in (select persons.user_id from persons)
            or (user_logins.message_id, user_logins.sent_at) in (select about_persons.message_id, about_persons.sent_at from about_persons)
        returning user_logins.user_id, user_logins.tableoid
    ),

    deleted_rejections as (
        delete from marts.rejected_logins using about_persons
        where rejected_logins.message_id = about_persons.message_id and rejected_logins.sent_at = about_persons.sent_at
        returning rejected_logins.message_id, rejected_logins.sent_at, rejected_logins.tableoid
    ),

    to_scrub as (
        insert into recovery.scrubs (relation)
        select deleted_logins.tableoid::regclass from deleted_logins
        union
        select deleted_rejections.tableoid::regclass from deleted_rejections
        on conflict (relation) do update set deleted_at = excluded.deleted_at
    )

    select
        persons.person,
        (select count(*) from about_persons where about_persons.person = persons.person),
        (select count(*) from deleted_logins where recovery.canonical_user_id(deleted_logins.user_id) = persons.user_id),
        (
            select count(*) from deleted_rejections
            inner join about_persons using (message_id, sent_at)
            where about_persons.person = persons.person
        ),
        jsonb_build_object(
            'persons', (select count(distinct persons.user_id) from persons), 'raw_messages', deleted_messages.raw_messages,
            'logins', (select count(*) from deleted_logins), 'rejections', (select count(*) from deleted_rejections)
        )
    from persons
    cross join deleted_messages
    order by persons.person
    loop
        return next;
    end loop;

    perform recovery.record('erased', details);
end
$$;

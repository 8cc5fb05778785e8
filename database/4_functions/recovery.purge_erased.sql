-- Deletes, from the window that dbt's transaction has open, the messages of erased persons and messages that were erased
-- before: before a model reads them. Costs nothing while nobody has been erased.
create or replace function recovery.purge_erased()
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint := 0;
begin
    if not exists (select from recovery.tombstones) then
        return purged;
    end if;

    with

    landed as materialized (

        select
            raw_logins.message_id,
            raw_logins.sent_at,
            recovery.event(raw_logins.body) ->> 'user_id' as user_id
        from staging.raw_logins
        where raw_logins.landed_xid >= staging.landed_from() and raw_logins.landed_xid < staging.landed_before()

    ),

    users as (

        select array_agg(distinct landed.user_id) as user_ids
        from landed
        where landed.user_id is not null

    ),

    erased_users as (

        select given.user_id
        from users
        cross join lateral unnest(users.user_ids, masking.tokens('erased_user', users.user_ids)) as given (user_id, user_token)
        inner join recovery.tombstones on given.user_token = tombstones.user_token

    ),

    unwanted as (

        select
            landed.message_id,
            landed.sent_at
        from landed
        inner join erased_users on landed.user_id = erased_users.user_id

        union

        select
            landed.message_id,
            landed.sent_at
        from landed
        inner join recovery.erased_messages
            on landed.message_id = erased_messages.message_id and landed.sent_at = erased_messages.sent_at

    ),

    deleted as (

        delete from staging.raw_logins using unwanted
        where raw_logins.message_id = unwanted.message_id and raw_logins.sent_at = unwanted.sent_at
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

    select count(*) into purged from deleted;
    return purged;
end
$$;

comment on function recovery.purge_erased() is
'Deletes the messages of erased persons from the window that a dbt model has open; returns how many.';

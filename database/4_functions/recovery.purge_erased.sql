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

    )

    select recovery.delete_messages(array_agg(unwanted.message_id), array_agg(unwanted.sent_at)) into purged
    from unwanted;
    return purged;
end
$$;

comment on function recovery.purge_erased() is
'Deletes the messages of erased persons from the window that a dbt model has open; returns how many.';

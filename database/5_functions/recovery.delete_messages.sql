-- Deletes raw messages of an erased person for good: remembers them, so that they are known when SQS delivers them again, and notes
-- their partitions for recovery.scrub(). Returns how many.
create or replace function recovery.delete_messages(message_ids text[], sent_ats timestamptz[])
returns bigint language sql set search_path = pg_catalog, pg_temp
begin atomic
    with
    deleted as (
        delete from staging.raw_logins using unnest(message_ids, sent_ats) as given (message_id, sent_at)
        where raw_logins.message_id = given.message_id and raw_logins.sent_at = given.sent_at
        returning raw_logins.message_id, raw_logins.sent_at, raw_logins.tableoid
    ),

    unlisted as (
        delete from staging.unjudged using unnest(message_ids, sent_ats) as given (message_id, sent_at)
        where unjudged.message_id = given.message_id and unjudged.sent_at = given.sent_at
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
        on conflict (relation) do update set deleted_at = excluded.deleted_at
    )

    select count(*) from deleted;
end;

-- Makes a message of each event in the batches that are listed and were sent by *until*, and returns how many batches that were. A part
-- is called <message_id>#<place>, and has its batch's times and attributes. A batch inside a batch is not split: a few bytes could
-- hold millions of events. A batch that SQS delivers again changes nothing: its parts are there, or staging.begin_judging() deletes
-- them again.
create or replace function staging.split_batches(until timestamptz)
returns bigint language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    split bigint;
begin
    -- without a look at the messages where there is none
    if not exists (select from staging.unjudged where unjudged.is_wrapped and unjudged.sent_at <= until) then
        return 0;
    end if;

    with
    batches as (
        select
            raw_logins.message_id,
            raw_logins.sent_at,
            raw_logins.landed_at,
            raw_logins.attributes,
            opened.content::json as batch
        from staging.unjudged
        inner join staging.raw_logins on unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at
        cross join lateral staging.open_body(raw_logins.body) as opened
        where unjudged.is_wrapped and unjudged.sent_at <= until and opened.fault is null and 'batch' = any(opened.envelopes)
            -- a part is not split again
            and strpos(raw_logins.message_id, '#') = 0
            -- one that was erased as a whole: staging.begin_judging() deletes it
            and not exists (
                select from recovery.erased_messages
                where erased_messages.message_id = raw_logins.message_id and erased_messages.sent_at = raw_logins.sent_at
            )
    ),

    landed as (
        insert into staging.raw_logins (message_id, sent_at, landed_at, attributes, body)
        select
            batches.message_id || '#' || part.place,
            batches.sent_at,
            batches.landed_at,
            batches.attributes,
            part.event::text
        from batches
        cross join lateral json_array_elements(batches.batch) with ordinality as part (event, place)
        on conflict do nothing
        returning raw_logins.message_id, raw_logins.sent_at, raw_logins.body
    ),

    listed as (
        insert into staging.unjudged (message_id, sent_at, is_wrapped)
        select
            landed.message_id,
            landed.sent_at,
            staging.body_is_wrapped(landed.body)
        from landed
    ),

    deleted as (
        delete from staging.raw_logins using batches
        where raw_logins.message_id = batches.message_id and raw_logins.sent_at = batches.sent_at
        returning raw_logins.message_id, raw_logins.sent_at
    ),

    unrejected as (
        delete from marts.rejected_logins using deleted
        where rejected_logins.message_id = deleted.message_id and rejected_logins.sent_at = deleted.sent_at
    ),

    unlisted as (
        delete from staging.unjudged using deleted
        where unjudged.message_id = deleted.message_id and unjudged.sent_at = deleted.sent_at
    )

    select count(*) into split from deleted;
    return split;
end
$$;

-- Makes a message of each event in the batches that are listed and were sent by *until*, and returns how many batches that were. A part
-- is called <message_id>#<place>, and has its batch's times and attributes. A batch inside a batch is split too, eight deep. A batch
-- that SQS delivers again changes nothing: its parts are there, or staging.begin_judging() deletes them again.
create or replace function staging.split_batches(until timestamptz)
returns bigint language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    batches bigint;
begin
    -- without a look at the messages where there is none
    if not exists (select from staging.unjudged where unjudged.is_wrapped and unjudged.sent_at <= until) then
        return 0;
    end if;

    with recursive
    messages as (
        select
            raw_logins.message_id,
            raw_logins.sent_at,
            raw_logins.landed_at,
            raw_logins.attributes,
            raw_logins.body,
            regexp_count(raw_logins.message_id, '#') as depth,
            opened.batch
        from staging.unjudged
        inner join staging.raw_logins on unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at
        cross join lateral (select staging.opened_batch(raw_logins.body) as batch limit all) as opened
        where unjudged.is_wrapped and unjudged.sent_at <= until and opened.batch is not null
            and regexp_count(raw_logins.message_id, '#') < 8

        union all

        select
            messages.message_id || '#' || part.place,
            messages.sent_at,
            messages.landed_at,
            messages.attributes,
            part.event::text,
            messages.depth + 1,
            case when messages.depth < 7 and staging.body_is_wrapped(part.event::text) then staging.opened_batch(part.event::text) end
        from messages
        cross join lateral json_array_elements(messages.batch) with ordinality as part (event, place)
    ),

    landed as (
        insert into staging.raw_logins (message_id, sent_at, landed_at, attributes, body)
        select
            messages.message_id,
            messages.sent_at,
            messages.landed_at,
            messages.attributes,
            messages.body
        from messages
        where messages.batch is null
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
        delete from staging.raw_logins using messages
        where raw_logins.message_id = messages.message_id and raw_logins.sent_at = messages.sent_at and messages.batch is not null
        returning raw_logins.message_id, raw_logins.sent_at
    ),

    unlisted as (
        delete from staging.unjudged using deleted
        where unjudged.message_id = deleted.message_id and unjudged.sent_at = deleted.sent_at
    )

    select count(*) into batches from deleted;
    return batches;
end
$$;

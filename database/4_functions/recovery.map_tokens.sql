-- Pairs old and new token of the values in the next *batch_messages* messages (and the rest of a transaction, so that its bound is
-- a transaction's id), of those that dbt has taken; returns how many messages, 0 when all are done. Remembers how far
-- it came. A value that gets two different new tokens is refused by the table's keys.
create or replace function recovery.map_tokens(batch_messages integer)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    from_xid xid8;
    taken_before constant xid8 := (
        select watermarks.taken_before from staging.watermarks where watermarks.consumer = 'user_logins'
    );
    before_xid xid8;
    mapped bigint;
begin
    select rotation.mapped_before into strict from_xid from recovery.rotation for update;

    before_xid := (
        select raw_logins.landed_xid
        from staging.raw_logins
        where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < taken_before
        order by raw_logins.landed_xid
        offset batch_messages
        limit 1
    );
    if not exists (
        select from staging.raw_logins where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < before_xid
    ) then
        -- a transaction larger than a batch is taken whole, and without one there is nothing beyond
        before_xid := (
            select raw_logins.landed_xid
            from staging.raw_logins
            where raw_logins.landed_xid > before_xid and raw_logins.landed_xid < taken_before
            order by raw_logins.landed_xid
            limit 1
        );
    end if;
    before_xid := coalesce(before_xid, taken_before);

    with

    batch as materialized (

        select recovery.event(raw_logins.body) as event
        from staging.raw_logins
        where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < before_xid

    ),

    distinct_values as (

        select distinct
            masked.domain,
            masked.masked_form
        from batch
        cross join lateral recovery.masked_values(batch.event) as masked

    ),

    by_domain as (

        select
            distinct_values.domain,
            array_agg(distinct_values.masked_form) as masked_forms
        from distinct_values
        group by distinct_values.domain

    ),

    pairs as (

        select
            pair.old_token,
            pair.new_token
        from by_domain
        cross join lateral unnest(
            masking.tokens(by_domain.domain, by_domain.masked_forms),
            recovery.next_tokens(by_domain.domain, by_domain.masked_forms)
        ) as pair (old_token, new_token)

    ),

    paired as (

        insert into recovery.rotated_tokens (old_token, new_token)
        select
            pairs.old_token,
            pairs.new_token
        from pairs
        left join recovery.rotated_tokens as known on pairs.old_token = known.old_token
        -- a second, different new token is not skipped: it violates the primary key
        where known.new_token is distinct from pairs.new_token

    )

    select count(*) into mapped from batch;

    update recovery.rotation set mapped_before = greatest(before_xid, from_xid);
    return mapped;
end
$$;

comment on function recovery.map_tokens(integer) is
'Pairs old and new tokens for the next batch of messages in a rotation; returns how many messages, 0 when all are done.';

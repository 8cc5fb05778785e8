-- Recomputes the chain. *first_broken* is the number of the first entry that is missing, changed or not sealed by the one before it;
-- null when all hold. With an anchor (an earlier head, noted outside) it also finds an end that was cut off, or a chain written anew.
create or replace function recovery.verify_audit(anchor_entry bigint default null, anchor_seal text default null)
returns table (entries bigint, first_broken bigint) language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    with
    chained as (
        select
            audit.entry,
            audit.seal,
            audit.previous_seal,
            row_number() over (order by audit.entry) as place,
            lag(audit.seal, 1, decode(repeat('00', 32), 'hex')) over (order by audit.entry) as seal_before,
            recovery.audit_seal(
                audit.previous_seal, audit.entry, audit.recorded_at, audit.actor, audit.act, audit.details
            ) as expected_seal
        from recovery.audit
    )

    select
        count(*) as entries,
        least(
            min(chained.place) filter (
                where chained.entry != chained.place
                or chained.previous_seal != chained.seal_before
                or chained.seal != chained.expected_seal
            ),
            case
                when count(*) filter (where chained.entry = anchor_entry and encode(chained.seal, 'hex') = lower(anchor_seal)) = 0
                    then anchor_entry
            end
        ) as first_broken
    from chained;
$$;

-- Step 4 of a reveal: the values behind the tokens, once, exactly as sent; each distinct spelling is a row.
-- Nothing is returned for a token whose raw messages are gone, or were masked under a key that is destroyed.
create or replace function recovery.read_reveal(reveal_id uuid)
returns table (token text, field text, plain_value text, messages bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Longer than another act keeps the end of the audit: what fails after the count below has used the reveal up.
set lock_timeout = '30s'
as $$
declare
    wanted text[];
    allowed boolean;
    found_values bigint;
begin
    -- taken before anything is looked at, so that no rotation ends in between
    lock table masking.keys in access share mode;

    select
        reveals.tokens,
        reveals.requester = session_user
        and reveals.read_at is null
        and reveals.expires_at > clock_timestamp()
        and current_setting('transaction_isolation') = 'read committed'
        and current_setting('transaction_read_only') = 'off'
        -- an id that this server has not given out yet comes from another one's backup; the status of an old one is null
        and case
            when reveals.opened_xid < pg_snapshot_xmax(pg_current_snapshot())
                then pg_xact_status(reveals.opened_xid) = 'committed'
        end
    into wanted, allowed
    from recovery.reveals
    where reveals.reveal_id = read_reveal.reveal_id;

    if allowed then
        -- a commit under synchronous_commit = off is on disk after three rounds of the WAL writer
        if pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() then
            perform pg_sleep_for(3 * current_setting('wal_writer_delay')::interval);
        end if;
        allowed := nextval(to_regclass(format('recovery.%I', 'readings_of_' || read_reveal.reveal_id))) = 1;
    end if;

    if allowed is not true then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;

    return query
    with

    spelled as (

        select
            found.token,
            masked.field,
            masked.domain,
            masked.plain_value,
            masked.masked_form,
            count(*) as messages
        from recovery.messages_of(wanted) as found
        inner join staging.raw_logins on found.message_id = raw_logins.message_id and found.sent_at = raw_logins.sent_at
        cross join lateral recovery.masked_values(recovery.event(raw_logins.body)) as masked
        group by found.token, masked.field, masked.domain, masked.plain_value, masked.masked_form

    )

    select
        spelled.token,
        spelled.field,
        spelled.plain_value,
        spelled.messages
    from spelled
    -- the value must give the very token: what dbt's table says about a message is not believed
    where masking.token(spelled.domain, spelled.masked_form) = spelled.token
    order by spelled.token, spelled.plain_value;
    get diagnostics found_values = row_count;

    update recovery.reveals set read_at = clock_timestamp() where reveals.reveal_id = read_reveal.reveal_id;
    perform recovery.record('reveal_read', jsonb_build_object('reveal_id', read_reveal.reveal_id, 'values', found_values));
end
$$;

comment on function recovery.read_reveal(uuid) is 'Step 4 of a reveal: the values behind the tokens, once, exactly as sent.';

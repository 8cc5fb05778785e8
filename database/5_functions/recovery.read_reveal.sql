-- Step 4 of a reveal: the values behind the tokens, once, exactly as sent; each distinct spelling is a row.
-- Nothing is returned for a token whose raw messages are gone, or were masked under a key that is destroyed. A reading that fails, or
-- finds nothing, is not counted and can be tried again.
create or replace function recovery.read_reveal(reveal_id uuid)
returns table (token text, field text, plain_value text, messages bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- no plan that holds the values as a constant, which auto_explain would log
set plan_cache_mode = force_generic_plan
as $$
declare
    wanted text[];
    allowed boolean;
    raw_since timestamptz;
    found_values jsonb;
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

        -- logins whose raw message has expired cannot be revealed, so their partitions are not searched
        raw_since := (
            select min(to_date(right(pg_class.relname, 8), 'YYYYMMDD'))
            from pg_inherits
            inner join pg_class on pg_inherits.inhrelid = pg_class.oid
            where pg_inherits.inhparent = 'staging.raw_logins'::regclass
        )::timestamp at time zone 'UTC';

        with

        spelled as (
            select
                login_tokens.token,
                personal_values.field,
                personal_values.plain_value,
                count(*) as messages
            from recovery.login_tokens
            inner join staging.personal_values
                on login_tokens.message_id = personal_values.message_id
                    and login_tokens.sent_at = personal_values.sent_at
                    and login_tokens.column_name = personal_values.column_name
            inner join masking.keys on personal_values.domain = keys.domain
            where login_tokens.sent_at >= raw_since
                and login_tokens.token = any(wanted)
                -- the value must give the very token: what dbt wrote about a message is not believed
                and masking.token(keys.version, keys.inner_block, keys.outer_block, personal_values.canonical_value) = login_tokens.token
            group by login_tokens.token, personal_values.field, personal_values.plain_value

        )
        select jsonb_agg(to_jsonb(spelled) order by spelled.token, spelled.plain_value) into found_values
        from spelled;

        if found_values is not null then
            update recovery.reveals set read_at = clock_timestamp() where reveals.reveal_id = read_reveal.reveal_id;
            perform recovery.record('reveal_read', jsonb_build_object(
                'reveal_id', read_reveal.reveal_id, 'values', jsonb_array_length(found_values)
            ));
            -- last, when nothing can fail any more: ROLLBACK does not set a sequence back, so the values are given once
            allowed := nextval(to_regclass(format('recovery.%I', 'readings_of_' || read_reveal.reveal_id))) = 1;
        end if;
    end if;

    if allowed is not true then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;

    return query
    select revealed.*
    from jsonb_to_recordset(found_values) as revealed (token text, field text, plain_value text, messages bigint);
end
$$;

-- Forgets what has served its time: erased messages that SQS can no longer deliver again, and the counters of reveals that
-- were opened and have expired.
create or replace function recovery.forget_stale()
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counter text;
begin
    -- SQS keeps a message for 14 days at most; one more for the clocks
    delete from recovery.erased_messages where erased_messages.sent_at < now() - interval '15 days';

    for counter in
        select format('recovery.%I', 'readings_of_' || reveals.reveal_id)
        from recovery.reveals
        where reveals.opened_xid is not null
            and reveals.expires_at < clock_timestamp()
            and to_regclass(format('recovery.%I', 'readings_of_' || reveals.reveal_id)) is not null
    loop
        execute 'drop sequence ' || counter;
    end loop;
end
$$;

comment on function recovery.forget_stale() is 'Forgets erased messages that cannot come back, and the counters of expired reveals.';

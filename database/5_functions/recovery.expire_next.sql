-- Drops the oldest day of raw messages that is past retention, and returns it; null when there is none left. One day a call and a
-- transaction, so that locks are held for moments: the caller sets lock_timeout and tries again.
-- A day stays while a message of it has no outcome, listed or not. A partition that was detached goes the same way as an attached one.
create or replace function recovery.expire_next()
returns date language plpgsql security definer set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    unjudged_query constant text := 'select exists (select from %s as raw_login'
        ' where not exists (select from marts.user_logins as masked'
        ' where masked.message_id = raw_login.message_id and masked.sent_at = raw_login.sent_at)'
        ' and not exists (select from marts.rejected_logins as rejected'
        ' where rejected.message_id = raw_login.message_id and rejected.sent_at = raw_login.sent_at))';
    partition record;
    dropped_messages bigint;
    unjudged boolean;
    counter text;
begin
    perform recovery.require_isolation('read committed');
    for partition in
        select
            pg_class.oid::regclass as relation,
            pg_inherits.inhrelid is not null as attached,
            days.day
        from pg_class
        left join pg_inherits on pg_class.oid = pg_inherits.inhrelid
        cross join lateral (select to_date(right(pg_class.relname, 8), 'YYYYMMDD') as day) as days
        where pg_class.relnamespace = 'staging'::regnamespace
            and pg_class.relkind = 'r'
            and pg_class.relname ~ '^raw_logins_[0-9]{8}$'
            and days.day + 1 + (select retention.raw_days from recovery.retention) <= current_date
        order by days.day
    loop
        execute format(unjudged_query, partition.relation) into unjudged;
        continue when unjudged;
        execute format('select count(*) from %s', partition.relation) into dropped_messages;
        if partition.attached then
            lock table only staging.raw_logins in access exclusive mode;
        end if;
        execute format('lock table %s in access exclusive mode', partition.relation);
        execute format(unjudged_query, partition.relation) into unjudged;
        if unjudged then
            raise exception 'a message has just arrived for %; it is dropped when dbt has judged it', partition.day
                using errcode = 'object_in_use';
        end if;

        -- cascade: an object made of the partition's row type would keep this day and all that follow
        execute format('drop table %s cascade', partition.relation);
        perform recovery.record('expired', jsonb_build_object('day', partition.day, 'raw_messages', dropped_messages));
        return partition.day;
    end loop;

    delete from recovery.erased_messages where erased_messages.sent_at < now() - interval '15 days';
    for counter in select 'readings_of_' || reveals.reveal_id from recovery.reveals where reveals.expires_at < clock_timestamp() loop
        execute format('drop sequence if exists recovery.%I', counter);
    end loop;
    return null;
end
$$;

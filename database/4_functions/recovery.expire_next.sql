-- Drops the oldest day of raw messages that is past retention, and returns it; null when there is none left. One day a call and a
-- transaction, so that what is locked is locked for moments: the caller sets lock_timeout and tries again.
-- A day stays that holds a message which dbt has not taken yet.
-- A partition whose DETACH … CONCURRENTLY was broken off, or that was detached by hand, goes the same way.
create or replace function recovery.expire_next()
returns date
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    partition record;
    dropped_messages bigint;
    unjudged boolean;
begin
    perform recovery.refuse_old_snapshot();
    for partition in
        select
            pg_class.oid::regclass as relation,
            to_date(right(pg_class.relname, 8), 'YYYYMMDD') as day,
            pg_inherits.inhrelid is not null as attached
        from pg_class
        left join pg_inherits on pg_class.oid = pg_inherits.inhrelid
        where pg_class.relnamespace = 'staging'::regnamespace
            and pg_class.relkind = 'r'
            and pg_class.relname ~ '^raw_logins_[0-9]{8}$'
            and to_date(right(pg_class.relname, 8), 'YYYYMMDD') + 1 + (select retention.raw_days from recovery.retention) <= current_date
        order by day
    loop
        continue when recovery.has_unjudged(partition.relation);

        execute format('select count(*) from %s', partition.relation) into dropped_messages;
        if partition.attached then
            -- first the parent, as an insert does
            lock table only staging.raw_logins in access exclusive mode;
        end if;
        execute format('lock table %s in access exclusive mode', partition.relation);
        -- nothing can arrive any more: look again
        unjudged := recovery.has_unjudged(partition.relation);
        if unjudged then
            raise exception 'a message has just arrived for %; it is dropped when dbt has taken it', partition.day
                using errcode = 'object_in_use';
        end if;

        -- cascade: whoever makes something of the partition's row type would keep the day, and all that follow
        execute format('drop table %s cascade', partition.relation);
        perform recovery.record('expired', jsonb_build_object('day', partition.day, 'raw_messages', dropped_messages));
        return partition.day;
    end loop;

    return null;
end
$$;

comment on function recovery.expire_next() is 'Drops the oldest day of raw messages past retention; returns it, or null when none is left.';

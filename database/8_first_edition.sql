-- Upgrade, part 2 of 2; see 2_first_edition.sql. Moves everything but a rotation under way (the keys in use had not changed) and
-- requests to reveal (they live for an hour). The views in analytics come back with the next dbt run.

do $$
declare
    this record;
    months timestamptz[];
    columns text;
begin
    if to_regnamespace('first_staging') is null then
        return;
    end if;
    perform set_config('timezone', 'UTC', true);

    -- a day's table moves as it is; ensure_partitions() attaches it with its new key, also one that was detached by hand
    for this in
        select pg_class.oid::regclass as relation, to_date(right(relname, 8), 'YYYYMMDD') as day, inhrelid is not null as attached, conname as key
        from pg_class
        left join pg_inherits on pg_class.oid = pg_inherits.inhrelid
        left join pg_constraint on pg_class.oid = pg_constraint.conrelid and contype = 'p'
        where relnamespace = 'first_staging'::regnamespace and relkind = 'r' and relname ~ '^raw_logins_'
    loop
        if this.attached then
            execute format('alter table first_staging.raw_logins detach partition %s', this.relation);
        end if;
        execute format('alter table %s drop constraint %I', this.relation, this.key);
        execute format('alter table %s drop column landed_xid, add attributes jsonb, alter attributes set statistics 0', this.relation);
        execute format('alter table %s set schema staging', this.relation);
        perform staging.ensure_partitions(array[this.day]);
    end loop;

    -- dbt makes the marts at its first run, which may be still to come
    create table if not exists first_marts.user_logins (like marts.user_logins);
    create table if not exists first_marts.rejected_logins (like marts.rejected_logins);
    months := array(
        select date_trunc('month', sent_at) from first_marts.user_logins
        union select date_trunc('month', sent_at) from first_marts.rejected_logins
    );
    set local role pipeline_owner;
    perform staging.ensure_partition(mart, to_char(month, 'YYYYMM'), month, month + interval '1 month')
    from unnest(months) as month
    cross join unnest(array['marts.user_logins', 'marts.rejected_logins']::regclass[]) as mart;
    set local role none;
    -- a column that somebody added, and 6_fields.sql does not declare, is an error here
    select string_agg(quote_ident(attname), ', ') into columns
    from pg_attribute
    where attrelid = 'first_marts.user_logins'::regclass and attnum > 0 and not attisdropped and attname != 'landed_xid';
    execute format('insert into marts.user_logins (%1$s) select %1$s from first_marts.user_logins', columns);
    insert into marts.rejected_logins select message_id, reasons, sent_at, landed_at from first_marts.rejected_logins;
    insert into staging.unjudged
    select message_id, sent_at from staging.raw_logins
    except (select message_id, sent_at from marts.user_logins union all select message_id, sent_at from marts.rejected_logins);

    delete from masking.keys where domain in (select first_keys.domain from first_masking.keys as first_keys);
    insert into masking.keys select distinct on (domain) * from first_masking.keys order by domain, version desc;
    insert into recovery.audit select * from first_recovery.audit;
    insert into recovery.tombstones select * from first_recovery.tombstones;
    insert into recovery.erased_messages select * from first_recovery.erased_messages;
    update recovery.retention set raw_days = first_retention.raw_days from first_recovery.retention as first_retention;
    insert into recovery.scrubs (relation)
    select relation from first_recovery.scrubs
    where relation in (select inhrelid from pg_inherits where inhparent = 'staging.raw_logins'::regclass);

    -- not CASCADE: what somebody built on these is not ours to drop
    drop view if exists analytics.daily_logins, analytics.shared_devices, analytics.shared_ips, analytics.user_logins,
    first_marts.daily_reconciliation;
    drop table first_marts.user_logins, first_marts.rejected_logins;
    drop schema first_staging, first_masking, first_recovery, first_marts cascade;
    delete from migrations.applied where file ~ '^(2_schemas|3_tables/|4_functions/|5_keys|6_privileges)';
    begin
        drop role marts_keeper;
    exception when dependent_objects_still_exist or insufficient_privilege or undefined_object then
        null; -- another database of this server uses it, or another administrator made it
    end;
end
$$;

-- What a dbt model needs before it takes messages from the work list: a key for every domain, the outcomes' partitions, and a list
-- without batches and without erased persons. The model then takes the first *max_messages* of the list, or all. With *again*, every
-- login whose raw message is there goes back on the list first, and the model takes all; readers see the old rows until it commits.
-- Call it in a repeatable read transaction that holds the models' lock (see the macro begin_judging): the model then sees exactly the
-- messages that were looked at here.
create or replace function staging.begin_judging(max_messages bigint default null, again boolean default false)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    domains_without_key constant text := (
        select string_agg(distinct wanted.domain, ', ')
        from masking.fields
        cross join lateral (values (fields.domain), (fields.fallback_domain)) as wanted (domain)
        where wanted.domain is not null and wanted.domain not in (select keys.domain from masking.keys)
    );
    listed bigint;
    are_few boolean;
begin
    perform recovery.require_isolation('repeatable read');
    if domains_without_key is not null then
        raise exception 'no masking key for domain %; run python -m loader migrate', domains_without_key using errcode = 'no_data_found';
    end if;

    if again then
        max_messages := null;
        with taken_back as (
            delete from marts.user_logins using staging.raw_logins
            where user_logins.message_id = raw_logins.message_id and user_logins.sent_at = raw_logins.sent_at
            returning user_logins.message_id, user_logins.sent_at
        )
        insert into staging.unjudged (message_id, sent_at)
        select taken_back.message_id, taken_back.sent_at from taken_back;
    end if;

    loop
        listed := (select count(*) from staging.unjudged);
        -- the oldest first. A bound on the time and no LIMIT, which would keep parallel workers from what is done with the rows
        perform set_config('staging.sent_until', coalesce((
            select unjudged.sent_at from staging.unjudged
            where listed > max_messages order by unjudged.sent_at offset max_messages - 1 limit 1
        )::text, ''), true);
        -- a few messages are looked up by key; the planner, which does not count on run-time pruning, would read every partition for them
        are_few := listed * 50 < (
            select sum(pg_class.reltuples) from pg_inherits
            inner join pg_class on pg_inherits.inhrelid = pg_class.oid
            where pg_inherits.inhparent = 'staging.raw_logins'::regclass
        );
        perform set_config(setting, case when are_few then 'off' else 'on' end, true)
        from unnest(array['enable_hashjoin', 'enable_mergejoin']) as setting;
        -- the parts of a batch are messages, so count again
        exit when staging.split_batches(coalesce(nullif(current_setting('staging.sent_until'), ''), 'infinity')::timestamptz) = 0;
    end loop;

    perform staging.ensure_partition(outcome, to_char(month, 'YYYYMM'), month, month + interval '1 month')
    from (select distinct date_trunc('month', unjudged.sent_at) as month from staging.unjudged) as months
    cross join unnest(array['marts.user_logins', 'marts.rejected_logins']::regclass[]) as outcome;

    if exists (select from recovery.tombstones) or exists (select from recovery.erased_messages) then
        perform recovery.delete_messages(array_agg(unwanted.message_id), array_agg(unwanted.sent_at))
        from (
            select unjudged.message_id, unjudged.sent_at
            from staging.unjudged
            inner join staging.message_users using (message_id, sent_at)
            inner join masking.keys on keys.domain = 'erased_user'
            where unjudged.sent_at <= (select coalesce(nullif(current_setting('staging.sent_until'), ''), 'infinity')::timestamptz)
                and (
                    (unjudged.message_id, unjudged.sent_at) in (select message_id, sent_at from recovery.erased_messages)
                    or masking.token(keys.version, keys.inner_block, keys.outer_block, message_users.user_id)
                    in (select user_token from recovery.tombstones)
                )
        ) as unwanted;
    end if;
    -- and many are never looked up one by one, however few the planner believes them to be
    perform set_config('enable_nestloop', case when are_few then 'on' else 'off' end, true);
end
$$;

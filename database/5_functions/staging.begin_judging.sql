-- What a dbt model needs before it takes messages from the work list: a key for every domain, the outcomes' partitions, and a list
-- without erased persons. Call it in a repeatable read transaction that holds the models' lock (see the macro begin_judging):
-- the model then sees exactly the messages that were looked at here.
create or replace function staging.begin_judging()
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
    month date;
begin
    if current_setting('transaction_isolation') != 'repeatable read' then
        raise exception 'begin_judging runs in repeatable read transactions only; this one is %', current_setting('transaction_isolation')
            using errcode = 'active_sql_transaction';
    end if;
    if domains_without_key is not null then
        raise exception 'no masking key for domain %; run python -m loader migrate', domains_without_key
            using errcode = 'no_data_found';
    end if;

    for month in
        select distinct date_trunc('month', unjudged.sent_at)::date from staging.unjudged
    loop
        perform staging.ensure_partition(
            outcome, to_char(month, 'YYYYMM'), month::timestamptz, (month + interval '1 month')::timestamptz
        )
        from unnest(array['marts.user_logins', 'marts.rejected_logins']::regclass[]) as outcome;
    end loop;

    if exists (select from recovery.tombstones) or exists (select from recovery.erased_messages) then
        perform recovery.delete_messages(array_agg(unwanted.message_id), array_agg(unwanted.sent_at))
        from (
            select
                unjudged.message_id,
                unjudged.sent_at
            from staging.unjudged
            inner join recovery.erased_messages
                on unjudged.message_id = erased_messages.message_id and unjudged.sent_at = erased_messages.sent_at
            union
            select
                unjudged.message_id,
                unjudged.sent_at
            from staging.unjudged
            inner join staging.raw_logins
                on unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at
            inner join recovery.tombstones
                on tombstones.user_token = recovery.person_token(staging.event(raw_logins.body) ->> 'user_id')
        ) as unwanted;
    end if;
end
$$;
comment on function staging.begin_judging() is 'Prepares the run of a dbt model: keys, partitions, a work list without erased persons.';

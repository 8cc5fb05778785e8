-- Makes what follows from masking.fields: the columns of marts.user_logins, a key for each domain, and four views.
--   staging.unjudged_logins  what awaits judgement, read, judged and masked: what dbt takes
--   staging.logins           the same of every landed message: what a developer's dbt target takes
--   staging.personal_values  each personal value of a landed message and its canonical form: what recovery goes by
--   recovery.login_tokens    each token of marts.user_logins, one a row
-- Views, because a view's owner reads the key for its reader, in parallel workers and without a cost per call.
create or replace function masking.apply_fields()
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    this record;
    built record;
    key constant text := '(select version from masking.keys where domain = %1$L), (select inner_block from masking.keys where domain = %1$L),'
        ' (select outer_block from masking.keys where domain = %1$L)';
    template text;
begin
    for this in
        select
            fields.*,
            case when fields.domain is null then fields.max_length else 256 end as length,
            pg_attribute.atttypmod - 4 as found_length
        from masking.fields
        left join pg_attribute
            on pg_attribute.attrelid = 'marts.user_logins'::regclass and pg_attribute.attname = fields.column_name and not attisdropped
    loop
        if this.found_length is null then
            execute format('alter table marts.user_logins add column %I varchar(%s)', this.column_name, this.length);
        elsif this.found_length < this.length then
            begin
                execute format('alter table marts.user_logins alter column %I type varchar(%s)', this.column_name, this.length);
            exception when feature_not_supported then
                raise exception 'marts.user_logins.% is varchar(%), 6_fields.sql allows % characters, and views use it; as transformer, drop the views in analytics, migrate, then dbt run',
                    this.column_name, this.found_length, this.length using errcode = 'dependent_objects_still_exist';
            end;
        end if;
    end loop;

    perform masking.create_key(domains.domain)
    from (
        select domain from masking.fields union select fallback_domain from masking.fields union select 'erased_user'
    ) as domains
    where domains.domain is not null and domains.domain not in (select keys.domain from masking.keys);

    -- an address is made canonical once, for its token and its network's
    select
        string_agg(format(
            case
                when domain is null then 'event ->> %1$L'
                when fallback_domain is null then 'masking.token(%3$s, %5$s)'
                else 'case when %5$s is null then masking.token(%4$s, event ->> %1$L) else masking.token(%3$s, %5$s) end'
            end || ' as %2$I', field, column_name, format(key, domain), format(key, fallback_domain), form
        ), ', ' order by column_name) as columns,
        string_agg(format('masking.fault(event, %L, %L, %s)', field, is_required, max_length), ', ' order by field)
            filter (where max_length is not null) as faults,
        string_agg(distinct format('masking.canonical_ip(event ->> %L) as %I', field, 'address_in_' || field), ', ')
            filter (where canonical_form in ('ip', 'network')) as addresses,
        string_agg(format('(%L, %L, %L, %L, %s, %s)', column_name, field, domain, fallback_domain, plain, form), ', ')
            filter (where domain is not null) as personal_values,
        string_agg(format('(%1$L, %1$I)', column_name), ', ' order by column_name) filter (where domain is not null) as tokens
    into built
    from masking.fields
    cross join lateral (
        select case canonical_form
            when 'ip' then format('%I', 'address_in_' || field)
            when 'network' then format('masking.network_of_ip(%I)', 'address_in_' || field)
            when 'as_sent' then format('event ->> %L', field)
        end as form
    ) as canonical
    cross join lateral (
        -- a network's token gives the network back, and no address in it
        select case when canonical_form = 'network' then form else format('event ->> %L', field) end as plain
    ) as sent;

    -- LIMIT ALL keeps the planner from copying what is computed below it. An event that is a text is the reason why there is none.
    template := format(
        'select message_id, sent_at, landed_at, reasons, %1$s from (select *%3$s from (select *, string_to_array('
        'case when jsonb_typeof(event) = ''string'' then event #>> ''{}'''
        ' when coalesce(%2$s) is not null then concat_ws('' '', %2$s) end, '' '') as reasons'
        ' from (select raw_logins.message_id, raw_logins.sent_at, raw_logins.landed_at, staging.event(raw_logins.body) as event'
        ' from staging.raw_logins %%s limit all) as read limit all) as judged limit all) as canonical',
        built.columns, built.faults, ', ' || built.addresses
    );

    for this in
        values
        ('staging', 'unjudged_logins', format(template,
            -- up to the time that begin_judging() has fixed for this run, and without what SQS delivered again after its outcome
            'where exists (select from staging.unjudged'
            ' where unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at'
            ' and unjudged.sent_at <= (select coalesce(nullif(current_setting(''staging.sent_until'', true), ''''), ''infinity'')::timestamptz))'
            ' and not exists (select from marts.user_logins as masked'
            ' where masked.message_id = raw_logins.message_id and masked.sent_at = raw_logins.sent_at)'
            ' and not exists (select from marts.rejected_logins as rejected'
            ' where rejected.message_id = raw_logins.message_id and rejected.sent_at = raw_logins.sent_at)'
        )),
        ('staging', 'logins', format(template, '')),
        ('staging', 'personal_values', format(
            'select raw_logins.message_id, raw_logins.sent_at, value.column_name, value.field,'
            ' case when value.form is null then value.fallback_domain else value.domain end as domain,'
            ' value.plain_value, coalesce(value.form, value.plain_value) as canonical_value'
            ' from staging.raw_logins'
            ' cross join lateral (select staging.event(raw_logins.body) as event limit all) as read'
            ' cross join lateral (select true as is_read%s limit all) as canonical'
            ' cross join lateral (values %s) as value (column_name, field, domain, fallback_domain, plain_value, form)'
            ' where coalesce(value.form, case when value.fallback_domain is not null then value.plain_value end) is not null',
            ', ' || built.addresses, built.personal_values
        )),
        ('recovery', 'login_tokens', format(
            'select message_id, sent_at, token.column_name, token.token from marts.user_logins'
            ' cross join lateral (values %s) as token (column_name, token) where token.token is not null', built.tokens
        ))
    loop
        -- a view that is the same stays: dropping it would wait for dbt
        execute 'create view masking.candidate as ' || this.column3;
        if pg_get_viewdef('masking.candidate'::regclass) = pg_get_viewdef(to_regclass(this.column1 || '.' || this.column2)) then
            drop view masking.candidate;
        else
            execute format('drop view if exists %I.%I', this.column1, this.column2);
            execute format('alter view masking.candidate rename to %I', this.column2);
            execute format('alter view masking.%I set schema %I', this.column2, this.column1);
        end if;
    end loop;
end
$$;

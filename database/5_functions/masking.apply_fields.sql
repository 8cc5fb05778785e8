-- Makes what follows from masking.fields: the columns of marts.user_logins, a key for each domain, and five views.
--   staging.unjudged_logins  what awaits judgement, read, judged and masked: what dbt takes
--   staging.logins           the same of every landed message: what a developer's dbt target takes
--   staging.message_users    whose each landed message is, for erasure; null where no user can be read in it
--   staging.personal_values  each personal value of a landed message and its canonical form: what recovery goes by
--   recovery.login_tokens    each token of marts.user_logins, one a row
-- Views, because a view's owner reads the key for its reader, in parallel workers and without a cost per call.
create or replace function masking.apply_fields()
returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    this record;
    built record;
    logins constant text := $view$
        with

        messages as (
            select raw_logins.message_id, raw_logins.sent_at, raw_logins.landed_at, staging.event(raw_logins.body) as event
            from staging.raw_logins
            %s
            limit all
        ),

        %s,

        judged as (
            select
                *,
                -- an event that is a text is the reason why there is none
                string_to_array(case
                    when jsonb_typeof(event) = 'string' then event #>> '{}'
                    when coalesce(%s) is not null then concat_ws(' ', %3$s)
                end, ' ') as reasons
            from checked
            limit all
        )

        select message_id, sent_at, landed_at, reasons, %s from judged limit all
    $view$;
    reading text;
begin
    for this in
        select
            fields.*,
            case when fields.lookup = 'country' then 2 when fields.domain is null then fields.max_length else 256 end as length,
            case when fields.lookup = 'asn' then 'number' when fields.json_type in ('number', 'boolean') then fields.json_type else 'string' end as type,
            pg_attribute.attnotnull as is_not_null,
            pg_attribute.atttypmod - 4 as found_length,
            pg_attribute.attnum is not null as is_there,
            case pg_attribute.atttypid
                when 'numeric'::regtype then 'number' when 'bigint'::regtype then 'number' when 'boolean'::regtype then 'boolean' else 'string'
            end as found_type,
            bool_or(fields.max_length is not null) over (partition by fields.path) as is_judged
        from masking.fields
        left join pg_attribute
            on pg_attribute.attrelid = 'marts.user_logins'::regclass and pg_attribute.attname = fields.column_name and not attisdropped
        where fields.column_name is not null
    loop
        if (this.is_there and this.found_type != this.type)
            or (this.json_type like 'string%' and not this.is_judged) then
            raise exception '6_fields.sql cannot give % what stands at % (%): say a max_length where the value is text, and another column where the type changes',
                this.column_name, this.path, this.json_type using errcode = 'invalid_object_definition';
        end if;
        if not this.is_there then
            execute format('alter table marts.user_logins add column %I %s', this.column_name, case
                when this.lookup = 'asn' then 'bigint'
                when this.type = 'number' then 'numeric'
                when this.type = 'boolean' then 'boolean'
                else format('varchar(%s)', this.length)
            end);
        elsif this.found_length between 1 and this.length - 1 then
            begin
                execute format('alter table marts.user_logins alter column %I type varchar(%s)', this.column_name, this.length);
            exception when feature_not_supported then
                raise exception 'marts.user_logins.% is varchar(%), 6_fields.sql allows % characters, and views use it; as transformer, drop the views in analytics, migrate, then dbt run',
                    this.column_name, this.found_length, this.length using errcode = 'dependent_objects_still_exist';
            end;
        end if;
        -- what is not required may be null, and so may a token without a fallback
        if this.is_not_null and not (this.is_required and (this.canonical_form in ('as_sent', 'device_id') or this.fallback_domain is not null
            or this.domain is null)) then
            execute format('alter table marts.user_logins alter column %I drop not null', this.column_name);
        end if;
    end loop;

    -- nor is a field that was taken out
    for this in
        select attname from pg_attribute
        where attrelid = 'marts.user_logins'::regclass and attnum > 0 and attnotnull
            and attname not in ('create_date', 'login_id', 'message_id', 'sent_at')
            and attname not in (select column_name from masking.fields where column_name is not null)
    loop
        execute format('alter table marts.user_logins alter column %I drop not null', this.attname);
    end loop;

    perform masking.create_key(domains.domain)
    from (
        select domain from masking.fields union select fallback_domain from masking.fields
        union select 'misplaced' from masking.fields where on_personal = 'mask'
        union select 'erased_user'
    ) as domains
    where domains.domain is not null and domains.domain not in (select keys.domain from masking.keys);

    with

    numbered as (
        select
            *,
            dense_rank() over (order by path) as number
        from masking.fields
        where column_name is not null
    ),

    -- a field's value as text, its type, and the form that its token is made of; an address is made canonical once for all its tokens
    read as (
        select
            numbered.*,
            reached.json,
            format('%s as text_%s', regexp_replace(reached.json, ' -> (\S+)$', ' ->> \1'), number) as extracted,
            format('text_%s', number) as text,
            format('%s_%s', case when canonical_form like 'network/%' or lookup is not null then 'ip' else canonical_form end, number) as form
        from numbered
        cross join lateral (
            select 'event' || string_agg(' -> ' || case when key ~ '^[0-9]' then key else quote_literal(key) end, '' order by place) as json
            from unnest(numbered.keys) with ordinality as parts (key, place)
        ) as reached
    ),

    masked as (
        select
            read.*,
            case
                when canonical_form = 'as_sent' then text
                when canonical_form like 'network/%' then format(
                    'masking.network_of_ip(%s, %s, %s)', form, split_part(canonical_form, '/', 2), split_part(canonical_form, '/', 3)
                )
                else form
            end as canonical,
            case
                when canonical_form = 'ip' or canonical_form like 'network/%' or lookup is not null then format('masking.canonical_ip(%s) as %s', text, form)
                when canonical_form != 'as_sent' then format('masking.canonical_text(%L, %s) as %s', canonical_form, text, form)
            end as computed,
            case when lookup is not null then format(
                'width_bucket(masking.ip_number(%s::inet), (select first_numbers || array[]::uuid[] from staging.ip_ranges'
                ' where first_numbers is not null)) as range_%s', form, number
            ) end as range,
            -- what is appended to an array has it unpacked once, and not for each row
            case lookup
                when 'country' then format(
                    'chr((%1$s - 1) / 26 + 65) || chr((%1$s - 1) %% 26 + 65)', format(
                        'nullif((select countries || array[]::smallint[] from staging.ip_ranges where first_numbers is not null)[range_%s], 0)',
                        number
                    )
                )
                when 'asn' then format(
                    'nullif((select asns || array[]::bigint[] from staging.ip_ranges where first_numbers is not null)[range_%s], 0)', number
                )
            end as place,
            format('%L = any(misplaced)', column_name) as is_misplaced
        from read
    ),

    tokens as (
        select
            masked.*,
            format(key.template, domain, canonical) as token,
            format(key.template, fallback_domain, text) as fallback_token,
            format(key.template, 'misplaced', text) as misplaced_token
        from masked
        cross join (
            values
            (
                'masking.token((select version from masking.keys where domain = %1$L), (select inner_block from masking.keys where domain = %1$L),'
                ' (select outer_block from masking.keys where domain = %1$L), %2$s)'
            )
        ) as key (template)
    )

    select
        string_agg(format(
            case
                when lookup is not null then '%11$s'
                when on_personal = 'mask' then 'case when %6$s then %5$s else %2$s end'
                when domain is null and json_type in ('number', 'boolean') then 'case when jsonb_typeof(%7$s) = %8$L then (%7$s)::%9$s end'
                when domain is null then '%2$s'
                when fallback_domain is null then '%3$s'
                else 'case when %10$s is null then %4$s else %3$s end'
            end || ' as %1$I',
            column_name, text, token, fallback_token, misplaced_token, is_misplaced, json, json_type,
            case json_type when 'number' then 'numeric' else json_type end, canonical, place
        ), ', ' order by column_name) as columns,
        concat_ws(
            ', ',
            string_agg(
                format('masking.fault(%L, %s, jsonb_typeof(%s), %L, %L, %L)', path, text, json, json_type, is_required, max_length), ', ' order by path
            ) filter (where max_length is not null or json_type in ('number', 'boolean')),
            string_agg(format('case when %s then %L end', is_misplaced, path || '_personal'), ', ' order by path)
                filter (where on_personal = 'reject')
        ) as faults,
        string_agg(distinct extracted, ', ') as extracted,
        concat_ws(', ', '*', string_agg(distinct range, ', ')) as located,
        concat_ws(
            ', ',
            string_agg(distinct computed, ', '),
            format('lower(concat_ws(E''\n'', %s)) as plain', coalesce(string_agg(text, ', ') filter (where on_personal in ('reject', 'mask')), 'null'))
        ) as computed,
        string_agg(
            format(
                '(%L, %L, %L, %L, %s, %s)', column_name, path, coalesce(domain, 'misplaced'), fallback_domain,
                -- a network's token gives the network back, and no address in it
                case when canonical_form like 'network/%' then canonical else text end,
                case when domain is null then format('case when %s then %s end', is_misplaced, text) else canonical end
            ), ', '
        ) filter (where domain is not null or on_personal = 'mask') as personal_values,
        string_agg(
            format(case when domain is null then '(%1$L, substring(%1$I from ''^v[0-9]+:[0-9a-f]{32}$''))' else '(%1$L, %1$I)' end, column_name),
            ', ' order by column_name
        ) filter (where domain is not null or on_personal = 'mask') as tokens,
        string_agg(distinct format('strpos(plain, lower(%s)) > 0', case
            when canonical_form = 'device_id' then form else format('masking.btrim_spaces(%s)', text)
        end), ' or ') filter (where domain is not null) as repeated,
        string_agg(
            format('case when jsonb_typeof(%s) in (%s) and masking.holds_personal(%s, array[%s]) then %L end', json, case
                when json_type = 'string' then '''string''' else '''string'', ''number''' end, text, (
                select string_agg(distinct personal.text, ', ') from read as personal where personal.domain is not null
            ), column_name), ', '
        ) filter (where on_personal in ('reject', 'mask')) as holding,
        max(case when column_name = 'user_id' then format(
            'case when jsonb_typeof(%s) in (''string'', ''number'') then nullif(recovery.canonical_user_id(%s), '''') end', json, text
        ) end) as user_id
    into built
    from tokens;

    -- each step reads what the one before it has computed; LIMIT ALL keeps the planner from copying an expression, a token most of all,
    -- to each place that uses it
    reading := format(
        $view$
        texts as (
            select *, %s from messages limit all
        ),

        computed as (
            select *, %s from texts limit all
        ),

        -- the number of the range in which an address is
        located as (
            select %s from computed limit all
        ),

        checked as (
            -- the columns that would show a personal value
            select *, case when masking.may_hold_personal(plain) or %s then array_remove(array[%s]::text[], null) end as misplaced
            from located
            limit all
        )
        $view$,
        built.extracted, built.computed, built.located, built.repeated, built.holding
    );

    for this in
        values
        ('staging', 'unjudged_logins', format(
            logins,
            -- up to the time that begin_judging() has fixed for this run, and without what SQS delivered again after its outcome
            $view$
            where
                exists (
                    select from staging.unjudged
                    where unjudged.message_id = raw_logins.message_id and unjudged.sent_at = raw_logins.sent_at and unjudged.sent_at <= (
                        select coalesce(nullif(current_setting('staging.sent_until', true), ''), 'infinity')::timestamptz
                    )
                )
                and not exists (
                    select from marts.user_logins as masked
                    where masked.message_id = raw_logins.message_id and masked.sent_at = raw_logins.sent_at
                )
                and not exists (
                    select from marts.rejected_logins as rejected
                    where rejected.message_id = raw_logins.message_id and rejected.sent_at = raw_logins.sent_at
                )
            $view$,
            reading, built.faults, built.columns
        )),
        ('staging', 'logins', format(logins, '', reading, built.faults, built.columns)),
        ('staging', 'message_users', format(
            $view$
            select raw_logins.message_id, raw_logins.sent_at, raw_logins.body, texts.user_id
            from staging.raw_logins
            cross join lateral (select staging.event(raw_logins.body) as event limit all) as messages
            cross join lateral (select %s as user_id from (select %s) as texts limit all) as texts
            $view$,
            built.user_id, built.extracted
        )),
        ('staging', 'personal_values', format(
            $view$
            select
                raw_logins.message_id,
                raw_logins.sent_at,
                value.column_name,
                value.path as field,
                case when value.form is null then value.fallback_domain else value.domain end as domain,
                value.plain_value,
                coalesce(value.form, value.plain_value) as canonical_value
            from staging.raw_logins
            cross join lateral (
                with messages as (select staging.event(raw_logins.body) as event limit all), %s
                select * from checked
            ) as checked
            cross join lateral (values %s) as value (column_name, path, domain, fallback_domain, plain_value, form)
            where coalesce(value.form, case when value.fallback_domain is not null then value.plain_value end) is not null
            $view$,
            reading, built.personal_values
        )),
        ('recovery', 'login_tokens', format(
            $view$
            select message_id, sent_at, token.column_name, token.token
            from marts.user_logins
            cross join lateral (values %s) as token (column_name, token)
            where token.token is not null
            $view$,
            built.tokens
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

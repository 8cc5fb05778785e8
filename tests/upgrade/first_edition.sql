-- The schema of a first-edition database after its migrate and one dbt run, as pg_dump --schema-only --no-comments writes it, less blank
-- lines, headings, \restrict and what PostgreSQL 16 does not know (transaction_timeout). Not to be changed.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA analytics;
ALTER SCHEMA analytics OWNER TO transformer;
CREATE SCHEMA marts;
ALTER SCHEMA marts OWNER TO transformer;
CREATE SCHEMA masking;
ALTER SCHEMA masking OWNER TO pipeline_owner;
CREATE SCHEMA migrations;
ALTER SCHEMA migrations OWNER TO postgres;
CREATE SCHEMA recovery;
ALTER SCHEMA recovery OWNER TO pipeline_owner;
CREATE SCHEMA staging;
ALTER SCHEMA staging OWNER TO pipeline_owner;
CREATE FUNCTION masking.canonical_ip(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    trimmed constant text := btrim(value, E' \t\r\n');
    spelled text;
begin
    if not pg_input_is_valid(trimmed, 'inet') or strpos(trimmed, '/') > 0 then
        return null;
    end if;
    spelled := host(trimmed::inet);
    -- most arrive so, and the rest is a third of the price
    if spelled = trimmed and left(spelled, 2) != '::' then
        return spelled;
    end if;
    if strpos(trimmed, '.') > 0 and trimmed ~ '(^|[.:])0[0-9]+(\.|$)|\.$' then
        return null;
    end if;
    return regexp_replace(spelled, '^::ffff:(?=[0-9]+\.)', '');
end
$_$;
ALTER FUNCTION masking.canonical_ip(value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.create_key(domain text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    key constant bytea := sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    );
    next_version constant integer := (
        select coalesce(max(keys.version), 0) + 1 from masking.keys where keys.domain = create_key.domain
    );
begin
    insert into masking.keys (domain, version, inner_block, outer_block)
    values (create_key.domain, next_version, masking.hmac_block(key, 54), masking.hmac_block(key, 92));
    return next_version;
end
$$;
ALTER FUNCTION masking.create_key(domain text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.hmac_block(key bytea, pad integer) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    block bytea := case when length(key) > 64 then sha256(key) else key end;
begin
    block := block || decode(repeat('00', 64 - length(block)), 'hex');
    for at in 0 .. 63 loop
        block := set_byte(block, at, get_byte(block, at) # pad);
    end loop;
    return block;
end
$$;
ALTER FUNCTION masking.hmac_block(key bytea, pad integer) OWNER TO pipeline_owner;
CREATE FUNCTION masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256((outer_block || sha256((inner_block || message))));
ALTER FUNCTION masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea) OWNER TO pipeline_owner;
CREATE FUNCTION masking.network_of_ip(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return case
        when strpos(value, ':') = 0 then rtrim(value, '0123456789') || '0/24'
        when pg_input_is_valid(value, 'inet') then network(set_masklen(value::inet, 48))::text
    end;
end
$$;
ALTER FUNCTION masking.network_of_ip(value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.partial_device_id(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN (length(regexp_replace(value, '[^[:alnum:]]'::text, ''::text, 'g'::text)) < 8) THEN regexp_replace(value, '[[:alnum:]]'::text, 'x'::text, 'g'::text) ELSE regexp_replace(value, '[[:alnum:]](?=([^[:alnum:]]*[[:alnum:]]){4})'::text, 'x'::text, 'g'::text) END;
ALTER FUNCTION masking.partial_device_id(value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.partial_email(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN (value ~ '^[^@]+@[^@]+$'::text) THEN (("left"(value, 1) || 'xxx@'::text) || "substring"(value, '@(.*)$'::text)) ELSE 'x'::text END;
ALTER FUNCTION masking.partial_email(value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.partial_ip(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    return coalesce(regexp_replace(masking.network_of_ip(masking.canonical_ip(value)), '(0/24|/48)$', 'x'), 'x');
end
$_$;
ALTER FUNCTION masking.partial_ip(value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.token(domain text, plain_value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (masking.tokens(domain, array[plain_value]))[1];
end
$$;
ALTER FUNCTION masking.token(domain text, plain_value text) OWNER TO pipeline_owner;
CREATE FUNCTION masking.tokens(domain text, plain_values text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    key masking.keys;
    version_mark text;
begin
    select keys.* into key from masking.keys
    where keys.domain = tokens.domain
    order by keys.version desc
    limit 1;
    if not found then
        raise exception 'no masking key for domain %; add it to database/5_keys.sql and run python -m loader migrate', domain
            using errcode = 'no_data_found';
    end if;
    version_mark := 'v' || key.version || ':';
    -- unnest() here and not in FROM: nothing is stored on the way, and nothing can change the order
    return array(
        select
            version_mark || encode(
                substr(masking.hmac_sha256(key.inner_block, key.outer_block, convert_to(unnest(plain_values), 'UTF8')), 1, 16), 'hex'
            )
    );
end
$$;
ALTER FUNCTION masking.tokens(domain text, plain_values text[]) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.approve_reveal(reveal_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    approved recovery.reveals;
begin
    update recovery.reveals set approver = session_user, approved_at = clock_timestamp()
    where reveals.reveal_id = approve_reveal.reveal_id
        and reveals.requester != session_user
        and reveals.approver is null
        and reveals.expires_at > clock_timestamp()
        and current_setting('transaction_isolation') = 'read committed'
    returning * into approved;
    if approved.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;
    perform recovery.record('reveal_approved', jsonb_build_object(
        'reveal_id', approved.reveal_id, 'requester', approved.requester
    ));
end
$$;
ALTER FUNCTION recovery.approve_reveal(reveal_id uuid) OWNER TO pipeline_owner;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE recovery.audit (
    entry bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    act text NOT NULL,
    details jsonb NOT NULL,
    previous_seal bytea NOT NULL,
    seal bytea NOT NULL,
    CONSTRAINT audit_act_check CHECK ((act = ANY (ARRAY['reveal_requested'::text, 'reveal_approved'::text, 'reveal_opened'::text, 'reveal_read'::text, 'erased'::text, 'retention_set'::text, 'expired'::text, 'rotation_begun'::text, 'rotated'::text]))),
    CONSTRAINT audit_entry_check CHECK ((entry > 0)),
    CONSTRAINT audit_previous_seal_check CHECK ((length(previous_seal) = 32)),
    CONSTRAINT audit_seal_check CHECK ((length(seal) = 32))
);
ALTER TABLE recovery.audit OWNER TO pipeline_owner;
CREATE FUNCTION recovery.audit_head() RETURNS TABLE(entry bigint, seal text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT audit.entry,
     encode(audit.seal, 'hex'::text) AS seal
    FROM recovery.audit
   ORDER BY audit.entry DESC
  LIMIT 1;
END;
ALTER FUNCTION recovery.audit_head() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.audit_seal(previous_seal bytea, entry bigint, recorded_at timestamp with time zone, actor text, act text, details jsonb) RETURNS bytea
    LANGUAGE sql STABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN sha256((previous_seal || convert_to((jsonb_build_array(entry, ((EXTRACT(epoch FROM recorded_at) * (1000000)::numeric))::bigint, actor, act, details))::text, 'UTF8'::name)));
ALTER FUNCTION recovery.audit_seal(previous_seal bytea, entry bigint, recorded_at timestamp with time zone, actor text, act text, details jsonb) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.begin_rotation() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    this_domain text;
    next_version integer;
begin
    insert into recovery.rotation default values on conflict do nothing;
    if not found then
        -- beyond what dbt has taken: the mark is from before a restore, and says nothing here
        update recovery.rotation set mapped_before = '0'
        where rotation.mapped_before > (
            select watermarks.taken_before from staging.watermarks where watermarks.consumer = 'user_logins'
        );
        return false;
    end if;
    for this_domain in select distinct keys.domain from masking.keys where keys.domain != 'erased_user' loop
        next_version := masking.create_key(this_domain);
        with
        moved as (
            delete from masking.keys
            where keys.domain = this_domain and keys.version = next_version
            returning keys.*
        )
        insert into recovery.next_keys
        select * from moved;
    end loop;
    perform recovery.record('rotation_begun', (
        select jsonb_object_agg(next_keys.domain, next_keys.version) from recovery.next_keys
    ));
    return true;
end
$$;
ALTER FUNCTION recovery.begin_rotation() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.change_tokens() RETURNS TABLE(changed_logins bigint, kept_logins bigint, unexplained_logins bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET work_mem TO '64MB'
    AS $_$
declare
    statement text;
    to_change bigint;
begin
    perform recovery.require_keeper('change_tokens');
    select format(
        'with changes as materialized ('
        ' select logins.ctid as place, logins.message_id, logins.sent_at, %s, %s as is_changed, %s as is_kept'
        ' from marts.user_logins as logins %s'
        '), changed as ('
        ' update marts.user_logins as logins set %s from changes where logins.ctid = changes.place and changes.is_changed returning 1'
        '), kept as ('
        ' select message_id, sent_at from changes where is_kept'
        ') select'
        ' (select count(*) from changed), (select count(*) from changes where is_changed), (select count(*) from kept),'
        ' (select count(*) from kept inner join staging.raw_logins'
        ' on kept.message_id = raw_logins.message_id and kept.sent_at = raw_logins.sent_at)',
        string_agg(format('coalesce(%1$I.new_token, logins.%2$I) as %2$I', 'pair_of_' || attname, attname), ', '),
        '(' || string_agg(format('%I.new_token is not null', 'pair_of_' || attname), ' or ') || ')',
        '(' || string_agg(format('logins.%2$I is not null and %1$I.new_token is null', 'pair_of_' || attname, attname), ' or ') || ')',
        string_agg(format('left join recovery.rotated_tokens as %1$I on logins.%2$I = %1$I.old_token', 'pair_of_' || attname, attname), ' '),
        string_agg(format('%1$I = changes.%1$I', attname), ', ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;
    if statement is null then
        return query values (0::bigint, 0::bigint, 0::bigint);
        return;
    end if;
    -- a row is found by its place, which nobody may change meanwhile; readers go on
    lock table marts.user_logins in share row exclusive mode;
    execute statement into changed_logins, to_change, kept_logins, unexplained_logins;
    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    if changed_logins != to_change then
        raise exception '% of % logins were changed; the others are held back by something on marts.user_logins', changed_logins, to_change
            using errcode = 'data_exception', hint = 'drop its triggers and rules, then rotate again';
    end if;
    return next;
end
$_$;
ALTER FUNCTION recovery.change_tokens() OWNER TO marts_keeper;
CREATE FUNCTION recovery.delete_from_marts(user_id text, message_ids text[]) RETURNS TABLE(logins bigint, rejections bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform recovery.require_keeper('delete_from_marts');
    logins := 0;
    rejections := 0;
    if to_regclass('marts.user_logins') is not null then
        -- by user, for the raw message may have expired; by message, for the rest
        delete from marts.user_logins as login
        where login.user_id = delete_from_marts.user_id or login.message_id = any(message_ids);
        get diagnostics logins = row_count;
    end if;
    if to_regclass('marts.rejected_logins') is not null then
        delete from marts.rejected_logins as rejected where rejected.message_id = any(message_ids);
        get diagnostics rejections = row_count;
    end if;
    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    return next;
end
$$;
ALTER FUNCTION recovery.delete_from_marts(user_id text, message_ids text[]) OWNER TO marts_keeper;
CREATE TABLE recovery.erased_messages (
    message_id text NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    erased_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE recovery.erased_messages OWNER TO pipeline_owner;
CREATE TABLE recovery.scrubs (
    relation regclass NOT NULL,
    deleted_xid xid8 DEFAULT pg_current_xact_id() NOT NULL
);
ALTER TABLE recovery.scrubs OWNER TO pipeline_owner;
CREATE TABLE staging.raw_logins (
    message_id text NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    body text NOT NULL,
    landed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    landed_xid xid8 DEFAULT pg_current_xact_id() NOT NULL
)
PARTITION BY RANGE (sent_at);
ALTER TABLE ONLY staging.raw_logins ALTER COLUMN body SET STATISTICS 0;
ALTER TABLE staging.raw_logins OWNER TO pipeline_owner;
CREATE FUNCTION recovery.delete_messages(message_ids text[], sent_ats timestamp with time zone[]) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH unwanted AS (
          SELECT given.message_id,
             given.sent_at
            FROM UNNEST(delete_messages.message_ids, delete_messages.sent_ats) given(message_id, sent_at)
         ), deleted AS (
          DELETE FROM staging.raw_logins
            USING unwanted
           WHERE ((raw_logins.message_id = unwanted.message_id) AND (raw_logins.sent_at = unwanted.sent_at))
           RETURNING raw_logins.message_id,
             raw_logins.sent_at,
             raw_logins.tableoid
         ), remembered AS (
          INSERT INTO recovery.erased_messages (message_id, sent_at)  SELECT deleted_1.message_id,
                     deleted_1.sent_at
                    FROM deleted deleted_1 ON CONFLICT DO NOTHING
         ), to_scrub AS (
          INSERT INTO recovery.scrubs (relation)  SELECT DISTINCT (deleted_1.tableoid)::regclass AS tableoid
                    FROM deleted deleted_1 ON CONFLICT(relation) DO UPDATE SET deleted_xid = excluded.deleted_xid
         )
  SELECT count(*) AS count
    FROM deleted;
END;
ALTER FUNCTION recovery.delete_messages(message_ids text[], sent_ats timestamp with time zone[]) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.erase(user_id text) RETURNS TABLE(raw_messages bigint, logins bigint, rejections bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    message_ids text[];
    sent_ats timestamptz[];
begin
    perform recovery.refuse_old_snapshot();
    if length(btrim(user_id)) > 0 is not true then
        raise exception 'no user_id is given' using errcode = 'invalid_parameter_value';
    end if;
    -- dbt's models take turns with this: one that has read the person's messages already is waited for
    lock table staging.watermarks in share row exclusive mode;
    insert into recovery.tombstones (user_token) values (masking.token('erased_user', erase.user_id))
    on conflict do nothing;
    select
        coalesce(array_agg(raw_login.message_id), '{}'),
        array_agg(raw_login.sent_at)
    into message_ids, sent_ats
    from staging.raw_logins as raw_login
    -- most bodies are told apart without being parsed; a backslash may hide letters, and a number has many spellings
    where (
        strpos(raw_login.body, erase.user_id) > 0
        or strpos(raw_login.body, '\') > 0
        or erase.user_id ~ '^-?[0-9]+([.][0-9]+)?$'
    )
        and recovery.names_user(raw_login.body, erase.user_id);
    raw_messages := recovery.delete_messages(message_ids, sent_ats);
    select
        deleted.logins,
        deleted.rejections
    into logins, rejections
    from recovery.delete_from_marts(erase.user_id, message_ids) as deleted;
    insert into recovery.scrubs (relation)
    select touched.relation
    from (values (to_regclass('marts.user_logins'), logins), (to_regclass('marts.rejected_logins'), rejections))
        as touched (relation, deleted)
    where touched.deleted > 0
    on conflict (relation) do update set deleted_xid = excluded.deleted_xid;
    perform recovery.record('erased', jsonb_build_object(
        'raw_messages', raw_messages, 'logins', logins, 'rejections', rejections
    ));
    return next;
end
$_$;
ALTER FUNCTION recovery.erase(user_id text) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.event(body text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if octet_length(body) <= 8192 then
        if pg_input_is_valid(body, 'jsonb') then
            return body::jsonb;
        end if;
        return null;
    end if;
    begin
        if pg_input_is_valid(body, 'jsonb') then
            return body::jsonb;
        end if;
    exception when statement_too_complex then
        null;
    end;
    return null;
end
$$;
ALTER FUNCTION recovery.event(body text) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.expire_next() RETURNS date
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
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
$_$;
ALTER FUNCTION recovery.expire_next() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.forget_stale() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
ALTER FUNCTION recovery.forget_stale() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.has_unjudged(partition regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    taken_before constant xid8 := (
        -- where a model has never run on this server, nothing is taken
        select case when count(*) = 2 then min(watermarks.taken_before::text::numeric)::text::xid8 else '0'::xid8 end
        from staging.watermarks
        where watermarks.consumer in ('user_logins', 'rejected_logins')
            -- another server's transaction ids mean nothing here
            and watermarks.system_identifier = (select control.system_identifier from pg_control_system() as control)
    );
    unjudged boolean;
begin
    execute format('select exists (select from %s where landed_xid >= $1)', partition) into unjudged using taken_before;
    return unjudged;
end
$_$;
ALTER FUNCTION recovery.has_unjudged(partition regclass) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.map_tokens(batch_messages integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    from_xid xid8;
    taken_before constant xid8 := (
        select watermarks.taken_before from staging.watermarks where watermarks.consumer = 'user_logins'
    );
    before_xid xid8;
    mapped bigint;
begin
    select rotation.mapped_before into strict from_xid from recovery.rotation for update;
    before_xid := (
        select raw_logins.landed_xid
        from staging.raw_logins
        where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < taken_before
        order by raw_logins.landed_xid
        offset batch_messages
        limit 1
    );
    if not exists (
        select from staging.raw_logins where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < before_xid
    ) then
        -- a transaction larger than a batch is taken whole, and without one there is nothing beyond
        before_xid := (
            select raw_logins.landed_xid
            from staging.raw_logins
            where raw_logins.landed_xid > before_xid and raw_logins.landed_xid < taken_before
            order by raw_logins.landed_xid
            limit 1
        );
    end if;
    before_xid := coalesce(before_xid, taken_before);
    with
    batch as materialized (
        select recovery.event(raw_logins.body) as event
        from staging.raw_logins
        where raw_logins.landed_xid >= from_xid and raw_logins.landed_xid < before_xid
    ),
    distinct_values as (
        select distinct
            masked.domain,
            masked.masked_form
        from batch
        cross join lateral recovery.masked_values(batch.event) as masked
    ),
    by_domain as (
        select
            distinct_values.domain,
            array_agg(distinct_values.masked_form) as masked_forms
        from distinct_values
        group by distinct_values.domain
    ),
    pairs as (
        select
            pair.old_token,
            pair.new_token
        from by_domain
        cross join lateral unnest(
            masking.tokens(by_domain.domain, by_domain.masked_forms),
            recovery.next_tokens(by_domain.domain, by_domain.masked_forms)
        ) as pair (old_token, new_token)
    ),
    paired as (
        insert into recovery.rotated_tokens (old_token, new_token)
        select
            pairs.old_token,
            pairs.new_token
        from pairs
        left join recovery.rotated_tokens as known on pairs.old_token = known.old_token
        -- a second, different new token is not skipped: it violates the primary key
        where known.new_token is distinct from pairs.new_token
    )
    select count(*) into mapped from batch;
    update recovery.rotation set mapped_before = greatest(before_xid, from_xid);
    return mapped;
end
$$;
ALTER FUNCTION recovery.map_tokens(batch_messages integer) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.masked_values(event jsonb) RETURNS TABLE(field text, domain text, plain_value text, masked_form text)
    LANGUAGE sql IMMUTABLE ROWS 3
    AS $$
    with
    login as materialized (
        select
            event ->> 'ip' as ip,
            event ->> 'device_id' as device_id,
            masking.canonical_ip(event ->> 'ip') as canonical_ip
    ),
    networked as materialized (
        select
            *,
            masking.network_of_ip(canonical_ip) as network
        from login
    )
    select masked.*
    from networked
    cross join lateral (
        values
        -- what is no address is masked as it is, in a domain of its own
        ('ip', case when canonical_ip is null then 'invalid_ip' else 'ip' end, ip, coalesce(canonical_ip, ip)),
        ('network', 'network', network, network),
        ('device_id', 'device_id', device_id, device_id)
    ) as masked (field, domain, plain_value, masked_form)
    where masked.plain_value is not null
$$;
ALTER FUNCTION recovery.masked_values(event jsonb) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.messages_of(tokens text[]) RETURNS TABLE(token text, message_id text, sent_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    statement text;
begin
    perform recovery.require_keeper('messages_of');
    select format(
        'select wanted.token, logins.message_id, logins.sent_at from marts.user_logins as logins'
        ' inner join (select distinct token from unnest($1) as token) as wanted on wanted.token in (%s) where %s',
        string_agg(format('logins.%I', attname), ', '),
        string_agg(format('logins.%I = any($1)', attname), ' or ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;
    if statement is not null then
        return query execute statement using tokens;
        -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$_$;
ALTER FUNCTION recovery.messages_of(tokens text[]) OWNER TO marts_keeper;
CREATE FUNCTION recovery.names_user(body text, user_id text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    event constant jsonb := recovery.event(body);
    hex_of_id constant text := encode(convert_to(user_id, 'UTF8'), 'hex');
    -- the bytes of digits, letters, _ and -
    hex_of_word constant text := '3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a]|2d';
begin
    if jsonb_typeof(event -> 'user_id') in ('string', 'number') then
        return event ->> 'user_id' = user_id;
    end if;
    -- what text cannot hold was landed as the hex digits of its bytes
    if body ~ '^\\x([0-9a-f]{2})*$' then
        return strpos(body, hex_of_id) > 0
            -- in whole bytes, two digits each
            and body ~ format('^\\x(([0-9a-f]{2})*(?!%1$s)[0-9a-f]{2})?%2$s(?!%1$s)', hex_of_word, hex_of_id);
    end if;
    return coalesce(event::text, body)
        ~ ('(^|[^[:alnum:]_-])' || regexp_replace(user_id, '([^[:alnum:]])', '\\\1', 'g') || '($|[^[:alnum:]_-])');
end
$_$;
ALTER FUNCTION recovery.names_user(body text, user_id text) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.next_tokens(domain text, plain_values text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    key masking.keys;
begin
    select next_keys.* into strict key from recovery.next_keys where next_keys.domain = next_tokens.domain;
    return array(
        select
            'v' || key.version || ':' || encode(
                substr(masking.hmac_sha256(key.inner_block, key.outer_block, convert_to(unnest(plain_values), 'UTF8')), 1, 16), 'hex'
            )
    );
end
$$;
ALTER FUNCTION recovery.next_tokens(domain text, plain_values text[]) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.open_reveal(reveal_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    opened recovery.reveals;
begin
    update recovery.reveals set opened_at = clock_timestamp(), opened_xid = pg_current_xact_id()
    where reveals.reveal_id = open_reveal.reveal_id
        and reveals.requester = session_user
        and reveals.approver is not null
        and reveals.opened_xid is null
        and reveals.expires_at > clock_timestamp()
        and current_setting('transaction_isolation') = 'read committed'
    returning * into opened;
    if opened.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;
    -- counts the readings: a sequence alone is not set back by ROLLBACK
    execute format('create sequence recovery.%I', 'readings_of_' || opened.reveal_id);
    perform recovery.record('reveal_opened', jsonb_build_object(
        'reveal_id', opened.reveal_id, 'tokens', opened.tokens, 'requester', opened.requester, 'approver', opened.approver,
        'purpose', opened.purpose, 'legal_reference', opened.legal_reference
    ));
end
$$;
ALTER FUNCTION recovery.open_reveal(reveal_id uuid) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.pending_reveals() RETURNS TABLE(reveal_id uuid, requester text, purpose text, legal_reference text, tokens integer, approver text, expires_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select
        reveals.reveal_id,
        reveals.requester,
        reveals.purpose,
        reveals.legal_reference,
        cardinality(reveals.tokens) as tokens,
        reveals.approver,
        reveals.expires_at
    from recovery.reveals
    where reveals.expires_at > clock_timestamp() and reveals.opened_xid is null
    order by reveals.requested_at;
$$;
ALTER FUNCTION recovery.pending_reveals() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.purge_erased() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    purged bigint := 0;
begin
    if not exists (select from recovery.tombstones) then
        return purged;
    end if;
    with
    landed as materialized (
        select
            raw_logins.message_id,
            raw_logins.sent_at,
            recovery.event(raw_logins.body) ->> 'user_id' as user_id
        from staging.raw_logins
        where raw_logins.landed_xid >= staging.landed_from() and raw_logins.landed_xid < staging.landed_before()
    ),
    users as (
        select array_agg(distinct landed.user_id) as user_ids
        from landed
        where landed.user_id is not null
    ),
    erased_users as (
        select given.user_id
        from users
        cross join lateral unnest(users.user_ids, masking.tokens('erased_user', users.user_ids)) as given (user_id, user_token)
        inner join recovery.tombstones on given.user_token = tombstones.user_token
    ),
    unwanted as (
        select
            landed.message_id,
            landed.sent_at
        from landed
        inner join erased_users on landed.user_id = erased_users.user_id
        union
        select
            landed.message_id,
            landed.sent_at
        from landed
        inner join recovery.erased_messages
            on landed.message_id = erased_messages.message_id and landed.sent_at = erased_messages.sent_at
    )
    select recovery.delete_messages(array_agg(unwanted.message_id), array_agg(unwanted.sent_at)) into purged
    from unwanted;
    return purged;
end
$$;
ALTER FUNCTION recovery.purge_erased() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.read_reveal(reveal_id uuid) RETURNS TABLE(token text, field text, plain_value text, messages bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '30s'
    AS $$
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
ALTER FUNCTION recovery.read_reveal(reveal_id uuid) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.record(act text, details jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    previous_seal bytea := decode(repeat('00', 32), 'hex');
    entry bigint := 1;
    recorded_at constant timestamptz := clock_timestamp();
begin
    perform pg_advisory_xact_lock(hashtextextended('recovery.audit', 0));
    select audit.seal, audit.entry + 1 into previous_seal, entry from recovery.audit order by audit.entry desc limit 1;
    if not found then
        previous_seal := decode(repeat('00', 32), 'hex');
        entry := 1;
    end if;
    insert into recovery.audit (entry, recorded_at, actor, act, details, previous_seal, seal)
    values (
        entry, recorded_at, session_user, record.act, record.details, previous_seal,
        recovery.audit_seal(previous_seal, entry, recorded_at, session_user, record.act, record.details)
    );
end
$$;
ALTER FUNCTION recovery.record(act text, details jsonb) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    raise exception 'the audit is append-only; % is refused', lower(tg_op)
        using errcode = 'insufficient_privilege';
end
$$;
ALTER FUNCTION recovery.refuse_change() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.refuse_old_snapshot() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if current_setting('transaction_isolation') != 'read committed' then
        raise exception 'this act runs in read committed transactions alone; this one is %', current_setting('transaction_isolation')
            using errcode = 'active_sql_transaction', hint = 'begin transaction isolation level read committed';
    end if;
end
$$;
ALTER FUNCTION recovery.refuse_old_snapshot() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.request_reveal(tokens text[], purpose text, legal_reference text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    requested recovery.reveals;
begin
    if current_setting('transaction_isolation') = 'read committed' then
        begin
            insert into recovery.reveals (tokens, purpose, legal_reference, requester)
            values (request_reveal.tokens, request_reveal.purpose, request_reveal.legal_reference, session_user)
            returning * into requested;
        exception when check_violation or not_null_violation then
            requested := null;
        end;
    end if;
    if requested.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;
    perform recovery.record('reveal_requested', jsonb_build_object(
        'reveal_id', requested.reveal_id, 'tokens', requested.tokens,
        'purpose', requested.purpose, 'legal_reference', requested.legal_reference
    ));
    return requested.reveal_id;
end
$$;
ALTER FUNCTION recovery.request_reveal(tokens text[], purpose text, legal_reference text) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.require_keeper(function_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if current_user != 'marts_keeper' then
        raise exception '%() runs as %, not as marts_keeper: somebody altered it', function_name, current_user
            using errcode = 'insufficient_privilege', hint = 'look for triggers on marts, and run python -m loader migrate';
    end if;
end
$$;
ALTER FUNCTION recovery.require_keeper(function_name text) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.rewrite(relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    -- at once, for two who have read and both want to write would wait for each other
    execute format('lock table %s in access exclusive mode', relation);
    -- VACUUM FULL would do the same and cannot run in a function; the index keeps the rows in the order in which they landed
    execute format('create index scrub_order on %s (landed_xid)', relation);
    execute format('cluster %s using scrub_order', relation);
    execute format('drop index %I.scrub_order', (
        select pg_class.relnamespace::regnamespace from pg_class where pg_class.oid = relation
    ));
    -- the statistics, too, held values of rows that are gone
    execute format('analyze %s', relation);
end
$$;
ALTER FUNCTION recovery.rewrite(relation regclass) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.rewrite_mart(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '30s'
    AS $$
begin
    perform recovery.require_keeper('rewrite_mart');
    perform recovery.rewrite(relation);
    -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
end
$$;
ALTER FUNCTION recovery.rewrite_mart(relation regclass) OWNER TO marts_keeper;
CREATE FUNCTION recovery.scrub(relation regclass) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    to_scrub recovery.scrubs;
    clean boolean;
begin
    select scrubs.* into to_scrub from recovery.scrubs where scrubs.relation = scrub.relation for update;
    if not found then
        return true;
    end if;
    if exists (select from pg_class where pg_class.oid = to_scrub.relation) then
        if to_scrub.relation in (to_regclass('marts.user_logins'), to_regclass('marts.rejected_logins')) then
            perform recovery.rewrite_mart(to_scrub.relation);
        else
            perform recovery.rewrite(to_scrub.relation);
        end if;
        -- after a rewrite, relfrozenxid is the oldest transaction that anyone may look back to
        clean := (
            select age(pg_class.relfrozenxid) < age(to_scrub.deleted_xid::xid)
            from pg_class
            where pg_class.oid = to_scrub.relation
        );
    else
        -- the whole partition has expired since
        clean := true;
    end if;
    if clean then
        delete from recovery.scrubs where scrubs.relation = to_scrub.relation;
    end if;
    return clean;
end
$$;
ALTER FUNCTION recovery.scrub(relation regclass) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.set_retention(raw_days integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if raw_days >= 14 is not true then
        raise exception 'retention is at least 14 days, as long as SQS may deliver a message again; % was given', raw_days
            using errcode = 'invalid_parameter_value';
    end if;
    update recovery.retention set raw_days = set_retention.raw_days;
    perform recovery.record('retention_set', jsonb_build_object('raw_days', raw_days));
end
$$;
ALTER FUNCTION recovery.set_retention(raw_days integer) OWNER TO pipeline_owner;
CREATE FUNCTION recovery.swap_tokens() RETURNS TABLE(changed_logins bigint, kept_logins bigint, changed_tokens bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    keys_to_keep masking.keys[];
    unexplained bigint;
    versions jsonb;
begin
    perform recovery.refuse_old_snapshot();
    lock table staging.watermarks in share row exclusive mode;
    -- what dbt has taken since the last batch
    while recovery.map_tokens(200000) > 0 loop
    end loop;
    analyze recovery.rotated_tokens;
    changed_tokens := (select count(*) from recovery.rotated_tokens);
    select
        logins.changed_logins,
        logins.kept_logins,
        logins.unexplained_logins
    into changed_logins, kept_logins, unexplained
    from recovery.change_tokens() as logins;
    -- every login whose raw message is there must have changed; if not, dbt masks in a way that recovery.masked_values() does not know
    if unexplained > 0 then
        raise exception '% logins carry a token that is not made of their message', unexplained
            using errcode = 'data_exception', hint = 'after a restore, dbt run comes first; else recovery.masked_values() does not follow the model user_logins';
    end if;
    versions := (select jsonb_object_agg(next_keys.domain, next_keys.version) from recovery.next_keys);
    keys_to_keep := array(
        select keys from masking.keys where keys.domain not in (select next_keys.domain from recovery.next_keys)
    ) || array(
        select row(next_keys.*)::masking.keys from recovery.next_keys
    );
    -- TRUNCATE gives the tables new files and removes the old ones with their bytes, which DELETE leaves
    truncate masking.keys, recovery.next_keys, recovery.rotated_tokens, recovery.rotation;
    insert into masking.keys select * from unnest(keys_to_keep);
    insert into recovery.scrubs (relation)
    select to_regclass('marts.user_logins') as relation
    where changed_logins > 0
    on conflict (relation) do update set deleted_xid = excluded.deleted_xid;
    perform recovery.record('rotated', jsonb_build_object(
        'versions', versions, 'changed_logins', changed_logins, 'kept_logins', kept_logins, 'changed_tokens', changed_tokens
    ));
    return next;
end
$$;
ALTER FUNCTION recovery.swap_tokens() OWNER TO pipeline_owner;
CREATE FUNCTION recovery.verify_audit(anchor_entry bigint DEFAULT NULL::bigint, anchor_seal text DEFAULT NULL::text) RETURNS TABLE(entries bigint, first_broken bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    with
    chained as (
        select
            audit.entry,
            audit.seal,
            audit.previous_seal,
            row_number() over (order by audit.entry) as place,
            lag(audit.seal, 1, decode(repeat('00', 32), 'hex')) over (order by audit.entry) as seal_before,
            recovery.audit_seal(
                audit.previous_seal, audit.entry, audit.recorded_at, audit.actor, audit.act, audit.details
            ) as expected_seal
        from recovery.audit
    )
    select
        count(*) as entries,
        least(
            min(chained.place) filter (
                where chained.entry != chained.place
                or chained.previous_seal != chained.seal_before
                or chained.seal != chained.expected_seal
            ),
            case
                when count(*) filter (
                    where chained.entry = anchor_entry and encode(chained.seal, 'hex') = lower(anchor_seal)
                ) = 0 then anchor_entry
            end
        ) as first_broken
    from chained;
$$;
ALTER FUNCTION recovery.verify_audit(anchor_entry bigint, anchor_seal text) OWNER TO pipeline_owner;
CREATE TABLE staging.watermarks (
    consumer text NOT NULL,
    taken_before xid8 DEFAULT '0'::xid8 NOT NULL,
    window_before xid8 DEFAULT '0'::xid8 NOT NULL,
    system_identifier bigint NOT NULL,
    taken_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE staging.watermarks OWNER TO pipeline_owner;
CREATE FUNCTION staging.close_window() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE staging.watermarks SET taken_before = watermarks.window_before, taken_at = clock_timestamp()
   WHERE (watermarks.consumer = current_setting('staging.consumer'::text));
END;
ALTER FUNCTION staging.close_window() OWNER TO pipeline_owner;
CREATE FUNCTION staging.ensure_partitions(dates date[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
declare
    day date;
    partition text;
begin
    foreach day in array dates loop
        -- in four digits of a year, by which expiry knows a partition's day
        if day not between '0001-01-01' and '9999-12-31' then
            raise exception 'no message was sent in a year before 1 or after 9999' using errcode = 'datetime_field_overflow';
        end if;
        partition := 'raw_logins_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass('staging.' || partition) is not null;
        perform pg_advisory_xact_lock(hashtextextended('staging.ensure_partitions', 0));
        -- asked of the table this time: to_regclass may still remember that there was none before the wait
        continue when exists (select from pg_class where relnamespace = 'staging'::regnamespace and relname = partition);
        -- ATTACH lets other loaders go on inserting; CREATE … PARTITION OF would lock them out.
        execute format('create table staging.%I (like staging.raw_logins including all)', partition);
        execute format('alter table staging.%I alter column body set statistics 0', partition);
        execute format(
            'alter table staging.raw_logins attach partition staging.%I for values from (%L) to (%L)',
            partition, day::timestamptz, (day + 1)::timestamptz
        );
    end loop;
end
$$;
ALTER FUNCTION staging.ensure_partitions(dates date[]) OWNER TO pipeline_owner;
CREATE FUNCTION staging.judge_again(message_ids text[]) RETURNS SETOF text
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE staging.raw_logins SET landed_xid = pg_current_xact_id()
   WHERE (raw_logins.message_id = ANY (judge_again.message_ids))
   RETURNING raw_logins.message_id;
END;
ALTER FUNCTION staging.judge_again(message_ids text[]) OWNER TO pipeline_owner;
CREATE FUNCTION staging.landed_before() RETURNS xid8
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    bound xid8;
begin
    select window_before into bound from staging.watermarks
    where consumer = current_setting('staging.consumer', true);
    if bound is null then
        raise exception 'no window is open in this transaction; call staging.open_window() first'
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    return bound;
end
$$;
ALTER FUNCTION staging.landed_before() OWNER TO pipeline_owner;
CREATE FUNCTION staging.landed_from() RETURNS xid8
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    bound xid8;
begin
    select taken_before into bound from staging.watermarks
    where consumer = current_setting('staging.consumer', true);
    if bound is null then
        raise exception 'no window is open in this transaction; call staging.open_window() first'
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    return bound;
end
$$;
ALTER FUNCTION staging.landed_from() OWNER TO pipeline_owner;
CREATE FUNCTION staging.open_window(consumer text, upstream text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    here constant bigint := (select control.system_identifier from pg_control_system() as control);
    mark staging.watermarks;
begin
    insert into staging.watermarks (consumer, system_identifier) values (open_window.consumer, here)
    on conflict do nothing;
    select * into strict mark from staging.watermarks where watermarks.consumer = open_window.consumer for update;
    if mark.system_identifier != here then
        raise exception 'the watermark of % is from server %, and this is server %, whose transaction ids are others; '
            'run dbt run-operation resume_after_restore once, see docs/restoring.md',
            open_window.consumer, mark.system_identifier, here
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    update staging.watermarks set
        window_before = coalesce(
            (select up.taken_before from staging.watermarks as up where up.consumer = open_window.upstream),
            pg_snapshot_xmin(pg_current_snapshot())
        )
    where watermarks.consumer = open_window.consumer;
    perform set_config('staging.consumer', open_window.consumer, true);
end
$$;
ALTER FUNCTION staging.open_window(consumer text, upstream text) OWNER TO pipeline_owner;
CREATE FUNCTION staging.resume_here() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    here constant bigint := (select control.system_identifier from pg_control_system() as control);
    landed_anew bigint;
begin
    perform from staging.watermarks where system_identifier != here for update;
    if not found then
        raise exception 'every watermark is from this server, %; nothing has to be resumed', here
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    update staging.raw_logins set landed_xid = pg_current_xact_id()
    where landed_xid >= pg_snapshot_xmin(pg_current_snapshot());
    get diagnostics landed_anew = row_count;
    update staging.watermarks set taken_before = '0', window_before = '0', system_identifier = here;
    return landed_anew;
end
$$;
ALTER FUNCTION staging.resume_here() OWNER TO pipeline_owner;
CREATE TABLE marts.user_logins (
    user_id character varying(128) NOT NULL,
    device_type character varying(32) NOT NULL,
    masked_ip character varying(256) NOT NULL,
    masked_device_id character varying(256) NOT NULL,
    locale character varying(32),
    app_version character varying(32) NOT NULL,
    create_date date NOT NULL,
    ip_is_valid boolean NOT NULL,
    masked_network character varying(256),
    app_version_parts integer[],
    message_id text NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    landed_xid xid8 NOT NULL
);
ALTER TABLE ONLY marts.user_logins ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE marts.user_logins OWNER TO transformer;
CREATE VIEW analytics.daily_logins WITH (security_barrier='true') AS
 WITH user_logins AS (
         SELECT user_logins.user_id,
            user_logins.device_type,
            user_logins.masked_ip,
            user_logins.masked_device_id,
            user_logins.locale,
            user_logins.app_version,
            user_logins.create_date,
            user_logins.ip_is_valid,
            user_logins.masked_network,
            user_logins.app_version_parts,
            user_logins.message_id,
            user_logins.sent_at,
            user_logins.landed_xid
           FROM marts.user_logins
        ), traits AS (
         SELECT user_logins.create_date,
            user_logins.user_id,
            trait.dimension,
            trait.dimension_value
           FROM (user_logins
             CROSS JOIN LATERAL UNNEST(ARRAY['app_version'::text, 'device_type'::text, 'locale'::text], ARRAY[user_logins.app_version, user_logins.device_type, user_logins.locale]) trait(dimension, dimension_value))
        ), user_groups AS (
         SELECT traits.create_date,
            traits.dimension,
            traits.dimension_value,
            traits.user_id,
            count(*) AS logins
           FROM traits
          GROUP BY traits.create_date, traits.dimension, traits.dimension_value, traits.user_id
        ), sized AS (
         SELECT user_groups.create_date,
            user_groups.dimension,
            user_groups.dimension_value,
            user_groups.user_id,
            user_groups.logins,
            count(*) OVER (PARTITION BY user_groups.create_date, user_groups.dimension, user_groups.dimension_value) AS group_users
           FROM user_groups
        ), ranked AS (
         SELECT sized.create_date,
            sized.dimension,
            sized.dimension_value,
            sized.user_id,
            sized.logins,
            sized.group_users,
            dense_rank() OVER (PARTITION BY sized.create_date, sized.dimension ORDER BY sized.group_users, sized.dimension_value) AS size_rank
           FROM sized
        ), counted_once AS (
         SELECT ranked.create_date,
            ranked.dimension,
            ranked.dimension_value,
            ranked.user_id,
            ranked.logins,
            ranked.group_users,
            ranked.size_rank,
            (ranked.size_rank = min(ranked.size_rank) OVER (PARTITION BY ranked.create_date, ranked.dimension, ranked.user_id)) AS is_first_group_of_user
           FROM ranked
        ), accumulated AS (
         SELECT counted_once.create_date,
            counted_once.dimension,
            counted_once.dimension_value,
            counted_once.user_id,
            counted_once.logins,
            counted_once.group_users,
            counted_once.size_rank,
            counted_once.is_first_group_of_user,
            min(counted_once.group_users) OVER (PARTITION BY counted_once.create_date, counted_once.dimension) AS smallest_group_users,
            count(*) FILTER (WHERE counted_once.is_first_group_of_user) OVER (PARTITION BY counted_once.create_date, counted_once.dimension ORDER BY counted_once.size_rank GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS smaller_groups_users
           FROM counted_once
        ), folded AS (
         SELECT accumulated.create_date,
            accumulated.dimension,
            accumulated.dimension_value,
            accumulated.user_id,
            accumulated.logins,
            accumulated.group_users,
            accumulated.size_rank,
            accumulated.is_first_group_of_user,
            accumulated.smallest_group_users,
            accumulated.smaller_groups_users,
            ((accumulated.smallest_group_users < 5) AND (LEAST(accumulated.group_users, accumulated.smaller_groups_users) < 5)) AS is_rest
           FROM accumulated
        ), daily_logins AS (
         SELECT folded.create_date,
            folded.dimension,
            folded.is_rest,
                CASE
                    WHEN (NOT folded.is_rest) THEN folded.dimension_value
                    ELSE NULL::character varying
                END AS dimension_value,
            (sum(folded.logins))::bigint AS logins,
            count(DISTINCT folded.user_id) AS distinct_users
           FROM folded
          GROUP BY folded.create_date, folded.dimension,
                CASE
                    WHEN (NOT folded.is_rest) THEN folded.dimension_value
                    ELSE NULL::character varying
                END, folded.is_rest
         HAVING (count(DISTINCT folded.user_id) >= 5)
        )
 SELECT create_date,
    dimension,
    is_rest,
    dimension_value,
    logins,
    distinct_users
   FROM daily_logins;
ALTER VIEW analytics.daily_logins OWNER TO transformer;
CREATE VIEW analytics.shared_devices WITH (security_barrier='true') AS
 WITH user_logins AS (
         SELECT user_logins.user_id,
            user_logins.device_type,
            user_logins.masked_ip,
            user_logins.masked_device_id,
            user_logins.locale,
            user_logins.app_version,
            user_logins.create_date,
            user_logins.ip_is_valid,
            user_logins.masked_network,
            user_logins.app_version_parts,
            user_logins.message_id,
            user_logins.sent_at,
            user_logins.landed_xid
           FROM marts.user_logins
        ), shared_devices AS (
         SELECT user_logins.masked_device_id,
            count(*) AS logins,
            count(DISTINCT user_logins.user_id) AS distinct_users,
            min(user_logins.create_date) AS first_date,
            max(user_logins.create_date) AS last_date
           FROM user_logins
          GROUP BY user_logins.masked_device_id
         HAVING (count(*) > 1)
        )
 SELECT masked_device_id,
    logins,
    distinct_users,
    first_date,
    last_date
   FROM shared_devices;
ALTER VIEW analytics.shared_devices OWNER TO transformer;
CREATE VIEW analytics.shared_ips WITH (security_barrier='true') AS
 WITH user_logins AS (
         SELECT user_logins.user_id,
            user_logins.device_type,
            user_logins.masked_ip,
            user_logins.masked_device_id,
            user_logins.locale,
            user_logins.app_version,
            user_logins.create_date,
            user_logins.ip_is_valid,
            user_logins.masked_network,
            user_logins.app_version_parts,
            user_logins.message_id,
            user_logins.sent_at,
            user_logins.landed_xid
           FROM marts.user_logins
        ), shared_ips AS (
         SELECT user_logins.masked_ip,
            count(*) AS logins,
            count(DISTINCT user_logins.user_id) AS distinct_users,
            min(user_logins.create_date) AS first_date,
            max(user_logins.create_date) AS last_date
           FROM user_logins
          GROUP BY user_logins.masked_ip
         HAVING (count(*) > 1)
        )
 SELECT masked_ip,
    logins,
    distinct_users,
    first_date,
    last_date
   FROM shared_ips;
ALTER VIEW analytics.shared_ips OWNER TO transformer;
CREATE VIEW analytics.user_logins WITH (security_barrier='true') AS
 WITH user_logins AS (
         SELECT user_logins_1.user_id,
            user_logins_1.device_type,
            user_logins_1.masked_ip,
            user_logins_1.masked_device_id,
            user_logins_1.locale,
            user_logins_1.app_version,
            user_logins_1.create_date,
            user_logins_1.ip_is_valid,
            user_logins_1.masked_network,
            user_logins_1.app_version_parts,
            user_logins_1.message_id,
            user_logins_1.sent_at,
            user_logins_1.landed_xid
           FROM marts.user_logins user_logins_1
        )
 SELECT user_id,
    device_type,
    masked_ip,
    masked_device_id,
    locale,
    app_version,
    create_date,
    ip_is_valid,
    masked_network,
    app_version_parts
   FROM user_logins;
ALTER VIEW analytics.user_logins OWNER TO transformer;
CREATE TABLE marts.rejected_logins (
    message_id text NOT NULL,
    reasons text[] NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    landed_at timestamp with time zone NOT NULL,
    landed_xid xid8 NOT NULL
);
ALTER TABLE marts.rejected_logins OWNER TO transformer;
CREATE VIEW marts.daily_reconciliation WITH (security_barrier='true') AS
 WITH raw_logins AS (
         SELECT raw_logins.message_id,
            raw_logins.sent_at,
            raw_logins.body,
            raw_logins.landed_at,
            raw_logins.landed_xid
           FROM staging.raw_logins
        ), user_logins AS (
         SELECT user_logins.user_id,
            user_logins.device_type,
            user_logins.masked_ip,
            user_logins.masked_device_id,
            user_logins.locale,
            user_logins.app_version,
            user_logins.create_date,
            user_logins.ip_is_valid,
            user_logins.masked_network,
            user_logins.app_version_parts,
            user_logins.message_id,
            user_logins.sent_at,
            user_logins.landed_xid
           FROM marts.user_logins
        ), rejected_logins AS (
         SELECT rejected_logins.message_id,
            rejected_logins.reasons,
            rejected_logins.sent_at,
            rejected_logins.landed_at,
            rejected_logins.landed_xid
           FROM marts.rejected_logins
        ), watermarks AS (
         SELECT watermarks.consumer,
            watermarks.taken_before,
            watermarks.window_before,
            watermarks.system_identifier,
            watermarks.taken_at
           FROM staging.watermarks
        ), erased_messages AS (
         SELECT erased_messages.message_id,
            erased_messages.sent_at,
            erased_messages.erased_at
           FROM recovery.erased_messages
        ), outcomes AS (
         SELECT raw_logins.message_id,
            ((min(raw_logins.sent_at) AT TIME ZONE 'UTC'::text))::date AS sent_date,
            COALESCE(bool_or((raw_logins.landed_xid < watermarks.taken_before)), false) AS is_taken,
            (count(user_logins.message_id) > 0) AS is_masked,
            (count(rejected_logins.message_id) > 0) AS is_rejected
           FROM (((raw_logins
             LEFT JOIN watermarks ON ((watermarks.consumer = 'rejected_logins'::text)))
             LEFT JOIN user_logins ON ((raw_logins.message_id = user_logins.message_id)))
             LEFT JOIN rejected_logins ON ((raw_logins.message_id = rejected_logins.message_id)))
          GROUP BY raw_logins.message_id
        ), daily AS (
         SELECT outcomes.sent_date,
            count(*) AS still_there,
            count(*) FILTER (WHERE outcomes.is_masked) AS masked,
            count(*) FILTER (WHERE outcomes.is_rejected) AS rejected,
            count(*) FILTER (WHERE ((NOT outcomes.is_masked) AND (NOT outcomes.is_rejected) AND (NOT outcomes.is_taken))) AS awaiting,
            count(*) FILTER (WHERE ((NOT outcomes.is_masked) AND (NOT outcomes.is_rejected) AND outcomes.is_taken)) AS lost,
            count(*) FILTER (WHERE (outcomes.is_masked AND outcomes.is_rejected)) AS in_both
           FROM outcomes
          GROUP BY outcomes.sent_date
        ), erased AS (
         SELECT ((erased_messages.sent_at AT TIME ZONE 'UTC'::text))::date AS sent_date,
            count(*) AS erased
           FROM erased_messages
          GROUP BY (((erased_messages.sent_at AT TIME ZONE 'UTC'::text))::date)
        ), reconciled AS (
         SELECT COALESCE(daily.sent_date, erased.sent_date) AS sent_date,
            (COALESCE(daily.still_there, (0)::bigint) + COALESCE(erased.erased, (0)::bigint)) AS landed,
            COALESCE(daily.masked, (0)::bigint) AS masked,
            COALESCE(daily.rejected, (0)::bigint) AS rejected,
            COALESCE(erased.erased, (0)::bigint) AS erased,
            COALESCE(daily.awaiting, (0)::bigint) AS awaiting,
            COALESCE(daily.lost, (0)::bigint) AS lost,
            COALESCE(daily.in_both, (0)::bigint) AS in_both
           FROM (daily
             FULL JOIN erased ON ((daily.sent_date = erased.sent_date)))
        )
 SELECT sent_date,
    landed,
    masked,
    rejected,
    erased,
    awaiting,
    lost,
    in_both
   FROM reconciled;
ALTER VIEW marts.daily_reconciliation OWNER TO transformer;
CREATE TABLE masking.keys (
    domain text NOT NULL,
    version integer NOT NULL,
    inner_block bytea NOT NULL,
    outer_block bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT keys_inner_block_check CHECK ((length(inner_block) = 64)),
    CONSTRAINT keys_outer_block_check CHECK ((length(outer_block) = 64)),
    CONSTRAINT keys_version_check CHECK ((version > 0))
);
ALTER TABLE ONLY masking.keys ALTER COLUMN inner_block SET STATISTICS 0;
ALTER TABLE ONLY masking.keys ALTER COLUMN outer_block SET STATISTICS 0;
ALTER TABLE masking.keys OWNER TO pipeline_owner;
CREATE TABLE migrations.applied (
    file text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE migrations.applied OWNER TO postgres;
CREATE TABLE recovery.next_keys (
    domain text CONSTRAINT keys_domain_not_null NOT NULL,
    version integer CONSTRAINT keys_version_not_null NOT NULL,
    inner_block bytea CONSTRAINT keys_inner_block_not_null NOT NULL,
    outer_block bytea CONSTRAINT keys_outer_block_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT keys_created_at_not_null NOT NULL,
    CONSTRAINT keys_inner_block_check CHECK ((length(inner_block) = 64)),
    CONSTRAINT keys_outer_block_check CHECK ((length(outer_block) = 64)),
    CONSTRAINT keys_version_check CHECK ((version > 0))
);
ALTER TABLE ONLY recovery.next_keys ALTER COLUMN inner_block SET STATISTICS 0;
ALTER TABLE ONLY recovery.next_keys ALTER COLUMN outer_block SET STATISTICS 0;
ALTER TABLE recovery.next_keys OWNER TO pipeline_owner;
CREATE TABLE recovery.retention (
    only_row boolean DEFAULT true NOT NULL,
    raw_days integer NOT NULL,
    CONSTRAINT retention_only_row_check CHECK (only_row),
    CONSTRAINT retention_raw_days_check CHECK ((raw_days >= 14))
);
ALTER TABLE recovery.retention OWNER TO pipeline_owner;
CREATE TABLE recovery.reveals (
    reveal_id uuid DEFAULT gen_random_uuid() NOT NULL,
    tokens text[] NOT NULL,
    purpose text NOT NULL,
    legal_reference text NOT NULL,
    requester text NOT NULL,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone DEFAULT (clock_timestamp() + '01:00:00'::interval) NOT NULL,
    approver text,
    approved_at timestamp with time zone,
    opened_at timestamp with time zone,
    opened_xid xid8,
    read_at timestamp with time zone,
    CONSTRAINT reveals_check CHECK ((approver <> requester)),
    CONSTRAINT reveals_legal_reference_check CHECK (((length(btrim(legal_reference)) >= 1) AND (length(btrim(legal_reference)) <= 200))),
    CONSTRAINT reveals_purpose_check CHECK ((purpose = ANY (ARRAY['fraud'::text, 'security_incident'::text, 'data_subject_request'::text, 'legal_obligation'::text]))),
    CONSTRAINT reveals_tokens_check CHECK ((((cardinality(tokens) >= 1) AND (cardinality(tokens) <= 50)) AND (array_to_string(tokens, ' '::text, 'null'::text) ~ '^v[0-9]{1,9}:[0-9a-f]{32}( v[0-9]{1,9}:[0-9a-f]{32})*$'::text)))
);
ALTER TABLE recovery.reveals OWNER TO pipeline_owner;
CREATE TABLE recovery.rotated_tokens (
    old_token text NOT NULL,
    new_token text NOT NULL
);
ALTER TABLE ONLY recovery.rotated_tokens ALTER COLUMN old_token SET STATISTICS 0;
ALTER TABLE ONLY recovery.rotated_tokens ALTER COLUMN new_token SET STATISTICS 0;
ALTER TABLE recovery.rotated_tokens OWNER TO pipeline_owner;
CREATE TABLE recovery.rotation (
    only_row boolean DEFAULT true NOT NULL,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    mapped_before xid8 DEFAULT '0'::xid8 NOT NULL,
    CONSTRAINT rotation_only_row_check CHECK (only_row)
);
ALTER TABLE recovery.rotation OWNER TO pipeline_owner;
CREATE TABLE recovery.tombstones (
    user_token text NOT NULL,
    erased_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE recovery.tombstones OWNER TO pipeline_owner;
ALTER TABLE ONLY marts.rejected_logins
    ADD CONSTRAINT rejected_logins_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY marts.user_logins
    ADD CONSTRAINT user_logins_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY masking.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (domain, version);
ALTER TABLE ONLY migrations.applied
    ADD CONSTRAINT applied_pkey PRIMARY KEY (file);
ALTER TABLE ONLY recovery.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (entry);
ALTER TABLE ONLY recovery.erased_messages
    ADD CONSTRAINT erased_messages_pkey PRIMARY KEY (message_id, sent_at);
ALTER TABLE ONLY recovery.next_keys
    ADD CONSTRAINT next_keys_pkey PRIMARY KEY (domain, version);
ALTER TABLE ONLY recovery.retention
    ADD CONSTRAINT retention_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY recovery.reveals
    ADD CONSTRAINT reveals_pkey PRIMARY KEY (reveal_id);
ALTER TABLE ONLY recovery.rotated_tokens
    ADD CONSTRAINT rotated_tokens_new_token_key UNIQUE (new_token);
ALTER TABLE ONLY recovery.rotated_tokens
    ADD CONSTRAINT rotated_tokens_pkey PRIMARY KEY (old_token);
ALTER TABLE ONLY recovery.rotation
    ADD CONSTRAINT rotation_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY recovery.scrubs
    ADD CONSTRAINT scrubs_pkey PRIMARY KEY (relation);
ALTER TABLE ONLY recovery.tombstones
    ADD CONSTRAINT tombstones_pkey PRIMARY KEY (user_token);
ALTER TABLE ONLY staging.raw_logins
    ADD CONSTRAINT raw_logins_pkey PRIMARY KEY (message_id, sent_at);
ALTER TABLE ONLY staging.watermarks
    ADD CONSTRAINT watermarks_pkey PRIMARY KEY (consumer);
CREATE INDEX raw_logins_landed_xid ON ONLY staging.raw_logins USING btree (landed_xid);
CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE OR TRUNCATE ON recovery.audit FOR EACH STATEMENT EXECUTE FUNCTION recovery.refuse_change();
ALTER TABLE recovery.audit ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE masking.keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY loader_lands ON staging.raw_logins FOR INSERT TO loader WITH CHECK (true);
ALTER TABLE staging.raw_logins ENABLE ROW LEVEL SECURITY;
CREATE POLICY transformer_reads ON staging.raw_logins FOR SELECT TO transformer USING (true);
GRANT USAGE ON SCHEMA analytics TO analyst;
GRANT USAGE ON SCHEMA masking TO transformer;
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA recovery TO marts_keeper;
GRANT USAGE ON SCHEMA recovery TO transformer;
GRANT USAGE ON SCHEMA recovery TO pii_requester;
GRANT USAGE ON SCHEMA recovery TO pii_approver;
GRANT USAGE ON SCHEMA recovery TO privacy_officer;
GRANT USAGE ON SCHEMA staging TO loader;
GRANT USAGE ON SCHEMA staging TO transformer;
REVOKE ALL ON FUNCTION masking.canonical_ip(value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.canonical_ip(value text) TO transformer;
REVOKE ALL ON FUNCTION masking.create_key(domain text) FROM PUBLIC;
REVOKE ALL ON FUNCTION masking.hmac_block(key bytea, pad integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION masking.network_of_ip(value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.network_of_ip(value text) TO transformer;
REVOKE ALL ON FUNCTION masking.partial_device_id(value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.partial_device_id(value text) TO transformer;
REVOKE ALL ON FUNCTION masking.partial_email(value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.partial_email(value text) TO transformer;
REVOKE ALL ON FUNCTION masking.partial_ip(value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.partial_ip(value text) TO transformer;
REVOKE ALL ON FUNCTION masking.token(domain text, plain_value text) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.token(domain text, plain_value text) TO transformer;
REVOKE ALL ON FUNCTION masking.tokens(domain text, plain_values text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION masking.tokens(domain text, plain_values text[]) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) TO transformer;
REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) TO pipeline_owner;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) TO transformer;
REVOKE ALL ON FUNCTION recovery.approve_reveal(reveal_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.approve_reveal(reveal_id uuid) TO pii_approver;
GRANT SELECT ON TABLE recovery.audit TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.audit_head() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.audit_head() TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.audit_seal(previous_seal bytea, entry bigint, recorded_at timestamp with time zone, actor text, act text, details jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.begin_rotation() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.begin_rotation() TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.change_tokens() FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.delete_from_marts(user_id text, message_ids text[]) FROM PUBLIC;
GRANT SELECT ON TABLE recovery.erased_messages TO transformer;
GRANT SELECT ON TABLE recovery.scrubs TO privacy_officer;
GRANT SELECT ON TABLE staging.raw_logins TO transformer;
GRANT INSERT(message_id) ON TABLE staging.raw_logins TO loader;
GRANT INSERT(sent_at) ON TABLE staging.raw_logins TO loader;
GRANT INSERT(body) ON TABLE staging.raw_logins TO loader;
REVOKE ALL ON FUNCTION recovery.delete_messages(message_ids text[], sent_ats timestamp with time zone[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.erase(user_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.erase(user_id text) TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.event(body text) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.expire_next() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.expire_next() TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.forget_stale() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.forget_stale() TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.has_unjudged(partition regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.map_tokens(batch_messages integer) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.map_tokens(batch_messages integer) TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.masked_values(event jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.messages_of(tokens text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.names_user(body text, user_id text) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.next_tokens(domain text, plain_values text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.open_reveal(reveal_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.open_reveal(reveal_id uuid) TO pii_requester;
REVOKE ALL ON FUNCTION recovery.pending_reveals() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.pending_reveals() TO pii_requester;
GRANT ALL ON FUNCTION recovery.pending_reveals() TO pii_approver;
REVOKE ALL ON FUNCTION recovery.purge_erased() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.purge_erased() TO transformer;
REVOKE ALL ON FUNCTION recovery.read_reveal(reveal_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.read_reveal(reveal_id uuid) TO pii_requester;
REVOKE ALL ON FUNCTION recovery.record(act text, details jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.refuse_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.refuse_old_snapshot() FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.request_reveal(tokens text[], purpose text, legal_reference text) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.request_reveal(tokens text[], purpose text, legal_reference text) TO pii_requester;
REVOKE ALL ON FUNCTION recovery.require_keeper(function_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.require_keeper(function_name text) TO marts_keeper;
REVOKE ALL ON FUNCTION recovery.rewrite(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.rewrite(relation regclass) TO marts_keeper;
REVOKE ALL ON FUNCTION recovery.rewrite_mart(relation regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION recovery.scrub(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.scrub(relation regclass) TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.set_retention(raw_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.set_retention(raw_days integer) TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.swap_tokens() FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.swap_tokens() TO privacy_officer;
REVOKE ALL ON FUNCTION recovery.verify_audit(anchor_entry bigint, anchor_seal text) FROM PUBLIC;
GRANT ALL ON FUNCTION recovery.verify_audit(anchor_entry bigint, anchor_seal text) TO privacy_officer;
GRANT SELECT,INSERT,UPDATE ON TABLE staging.watermarks TO transformer;
REVOKE ALL ON FUNCTION staging.close_window() FROM PUBLIC;
GRANT ALL ON FUNCTION staging.close_window() TO transformer;
REVOKE ALL ON FUNCTION staging.ensure_partitions(dates date[]) FROM PUBLIC;
GRANT ALL ON FUNCTION staging.ensure_partitions(dates date[]) TO loader;
REVOKE ALL ON FUNCTION staging.judge_again(message_ids text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION staging.judge_again(message_ids text[]) TO transformer;
REVOKE ALL ON FUNCTION staging.landed_before() FROM PUBLIC;
GRANT ALL ON FUNCTION staging.landed_before() TO transformer;
REVOKE ALL ON FUNCTION staging.landed_from() FROM PUBLIC;
GRANT ALL ON FUNCTION staging.landed_from() TO transformer;
REVOKE ALL ON FUNCTION staging.open_window(consumer text, upstream text) FROM PUBLIC;
GRANT ALL ON FUNCTION staging.open_window(consumer text, upstream text) TO transformer;
REVOKE ALL ON FUNCTION staging.resume_here() FROM PUBLIC;
GRANT ALL ON FUNCTION staging.resume_here() TO transformer;
GRANT SELECT ON TABLE analytics.daily_logins TO analyst;
GRANT SELECT ON TABLE analytics.shared_devices TO analyst;
GRANT SELECT ON TABLE analytics.shared_ips TO analyst;
GRANT SELECT ON TABLE analytics.user_logins TO analyst;
GRANT SELECT ON TABLE recovery.retention TO privacy_officer;
GRANT SELECT ON TABLE recovery.rotated_tokens TO marts_keeper;
ALTER DEFAULT PRIVILEGES FOR ROLE pipeline_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE transformer REVOKE ALL ON FUNCTIONS FROM PUBLIC;

-- The seal of one audit row: SHA-256 over the seal before it and the row as a JSON array, whose text form in jsonb is always the
-- same for the same row; the time in microseconds since 1970, because its text depends on the session's time zone.
create or replace function recovery.audit_seal(
    previous_seal bytea, entry bigint, recorded_at timestamptz, actor text, act text, details jsonb
)
returns bytea language sql stable strict set search_path = pg_catalog, pg_temp
return sha256(previous_seal || convert_to(
    jsonb_build_array(entry, (extract(epoch from recorded_at) * 1000000)::bigint, actor, act, details)::text, 'UTF8'
));

-- What marts.user_logins masks of an event: one row per token column. The same rules as in dbt's user_logins model; a
-- rotation refuses to end when they differ. A new masked column is a new line here, and nowhere else in recovery.
-- Without a search_path of its own, so that it is inlined: called a million times, it would cost as much as all the rest.
-- MATERIALIZED for the same reason: the planner would copy each call into every expression that uses it.
create or replace function recovery.masked_values(event jsonb)
returns table (field text, domain text, plain_value text, masked_form text)
language sql
immutable
rows 3
as $$
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

comment on function recovery.masked_values(jsonb) is
'Per masked column: the field, its key''s domain, the value as sent, and the form of it that the token is made of.';

"""The price of the masker that keeps its key to itself, against the same HMAC written into the query with its key for all to see.

Each round runs both over the same million logins as `dbt_project/models/marts/user_logins.sql` does, an address, a network and a
device id each, and the query alone that brings them; that one's CPU time is taken off both.
"""

import psutil

from benchmarks.harness import Bench, NotCountedError, Result, measure

LOGINS = 1_000_000
DOMAINS = {"ip": "canonical_ip", "network": "network", "device_id": "device_id"}
AT_MOST = 1.5  # times the inlined expression

FILL = f"""
    create unlogged table logins as
    select
        md5(n::text) as message_id,
        left(md5(n::text), 2) as batch,
        md5('user' || n % 100000) as user_id,
        'android' as device_type,
        format('10.0.%s.%s', n / 256 % 256, n % 256) as canonical_ip,
        format('10.0.%s.0/24', n / 256 % 256) as network,
        format('%s-%s', n % 300000, n % 7) as device_id,
        'DE' as locale,
        '2.3.' || n % 100 as app_version,
        now() as sent_at,
        pg_current_xact_id() as landed_xid
    from generate_series(1, {LOGINS}) as n
"""  # noqa: S608  # put together from constants, here and below
FIRST_LANDED = "with first_landed as (select distinct on (batch, message_id) * from logins order by batch, message_id, landed_xid)"
SUMMED = "count(*), max(user_id), max(app_version), max(masked_ip), max(masked_network), max(masked_device_id)"

BARE = f"""
    {FIRST_LANDED}
    select count(*), max(user_id), max(app_version), max(canonical_ip), max(network), max(device_id) from first_landed
"""  # noqa: S608
SECURE = f"""
    {FIRST_LANDED},
    batched as (
        select
            array_agg(user_id) as user_ids,
            array_agg(device_type) as device_types,
            masking.tokens('ip', array_agg(canonical_ip)) as ip_tokens,
            masking.tokens('invalid_ip', array_agg(case when canonical_ip is null then message_id end)) as invalid_ip_tokens,
            masking.tokens('network', array_agg(network)) as network_tokens,
            masking.tokens('device_id', array_agg(device_id)) as device_id_tokens,
            array_agg(locale) as locales,
            array_agg(app_version) as app_versions,
            array_agg(message_id) as message_ids,
            array_agg(sent_at) as sent_ats,
            array_agg(landed_xid) as landed_xids
        from first_landed
        group by batch
    ),
    masked as (
        select
            unnest(user_ids) as user_id,
            unnest(device_types) as device_type,
            unnest(ip_tokens) as masked_ip,
            unnest(invalid_ip_tokens) as invalid_ip_token,
            unnest(network_tokens) as masked_network,
            unnest(device_id_tokens) as masked_device_id,
            unnest(locales) as locale,
            unnest(app_versions) as app_version,
            unnest(message_ids) as message_id,
            unnest(sent_ats) as sent_at,
            unnest(landed_xids) as landed_xid
        from batched
    )
    select {SUMMED} from masked
"""  # noqa: S608
INLINED = """
    {first_landed},
    masked as (
        select user_id, app_version, {ip} as masked_ip, {network} as masked_network, {device_id} as masked_device_id
        from first_landed
        offset 0
    )
    select {summed} from masked
"""
EXPRESSION = (
    "'v1:' || encode(substr(sha256('\\x{outer}'::bytea || sha256('\\x{inner}'::bytea || convert_to({column}, 'UTF8'))), 1, 16), 'hex')"
)


@measure
def masking_price(bench: Bench) -> list[Result]:
    """CPU time of the secure call divided by that of the inlined expression."""
    with bench.connect() as connection:
        connection.execute(FILL.encode())
        connection.execute("vacuum analyze logins")
        connection.execute("set max_parallel_workers_per_gather = 0")  # one process, so that its CPU time is all of it
        rows = connection.execute("select domain, inner_block, outer_block from masking.keys").fetchall()
        keys = {domain: (inner, outer) for domain, inner, outer in rows}
        expressions = {
            domain: EXPRESSION.format(inner=keys[domain][0].hex(), outer=keys[domain][1].hex(), column=column)
            for domain, column in DOMAINS.items()
        }
        inlined = INLINED.format(first_landed=FIRST_LANDED, summed=SUMMED, **expressions)
        server = psutil.Process(connection.info.backend_pid)

        def cpu_seconds(query: str) -> tuple[float, object]:
            before = server.cpu_times()
            row = connection.execute(query.encode()).fetchone()
            after = server.cpu_times()
            return after.user + after.system - before.user - before.system, row

        secure_seconds, inlined_seconds = [], []
        for _ in range(bench.runs):
            bare, _row = cpu_seconds(BARE)
            secure, masked = cpu_seconds(SECURE)
            visible, expected = cpu_seconds(inlined)
            if masked != expected:
                raise NotCountedError("the masker and the inlined expression disagree about the tokens")
            secure_seconds.append(secure - bare)
            inlined_seconds.append(visible - bare)
        connection.execute("drop table logins")
    ratios = [secure / visible for secure, visible in zip(secure_seconds, inlined_seconds, strict=True)]
    per_million = len(DOMAINS) * LOGINS / 1_000_000
    return [
        Result("masking, secure ÷ inlined with a visible key", "ratio", ratios, at_most=AT_MOST),
        Result("masking, secure", "CPU s per million values", [seconds / per_million for seconds in secure_seconds]),
        Result("masking, inlined with a visible key", "CPU s per million values", [seconds / per_million for seconds in inlined_seconds]),
    ]

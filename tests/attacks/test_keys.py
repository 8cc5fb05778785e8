"""Who may read through the views that mask does not get the key that their owner reads for them."""

import itertools

import psycopg
import pytest

from tests import canaries, support
from tests.attacks.conftest import TALKATIVE
from tests.support import Database

PRINTED = (
    *("set client_min_messages = log", "set debug_pretty_print = off"),
    *("set debug_print_parse = on", "set debug_print_rewritten = on", "set debug_print_plan = on"),
)
# everything logged, of the statements inside functions too; what needs a restart is refused
NOISY = ("load 'auto_explain'", *(f"set {name} = '{value}'" for name, value in TALKATIVE.items()), *PRINTED)


def printed(connection: psycopg.Connection[object], statements: list[str]) -> str:
    """All that the server tells the client about *statements*: rows, notices, log lines, errors."""
    told: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        told.extend(str(part) for part in (notice.message_primary, notice.message_detail, notice.message_hint, notice.context))

    connection.add_notice_handler(keep)
    for statement in statements:
        try:
            result = connection.execute(statement.encode())
            told += [str(row) for row in result.fetchall()] if result.description else []
        except psycopg.Error as error:
            told.append(str(error))
    return "\n".join(told)


def gets_the_key(database: Database, statements: list[str]) -> bool:
    with database.connect("transformer") as connection:
        return canaries.keys_found_in(printed(connection, statements), support.key_blocks(database))


@pytest.mark.parametrize("view", ["staging.logins", "staging.unjudged_logins"])
def test_key_is_not_in_a_printed_or_explained_plan(masked: Database, view: str) -> None:
    """Anybody may have the plans of their own statements printed; a plan of a view holds what the view's owner reads."""
    masked.execute("delete from marts.user_logins", "insert into staging.unjudged select message_id, sent_at from staging.raw_logins")
    read = f"select * from {view}"
    statements = [
        *PRINTED,
        read,
        f"explain (analyze, verbose, settings, buffers) {read}",
        f"explain (verbose, generic_plan) {read} where message_id = $1",
        f"prepare mine (text) as {read} where masked_ip > $1",
        *["execute mine ('v')"] * 7,
        f"begin; declare mine cursor for {read}; fetch 3 from mine; commit",
    ]
    assert masked.value(f"select count(masked_ip) from {view}") > 0
    assert not gets_the_key(masked, statements)
    # the guard removed: the key is a constant of the view
    inner, outer = (f"'\\x{block.hex()}'::bytea" for block in support.key_blocks(masked)[:2])
    with masked.connect() as connection:
        connection.execute("drop view staging.logins, staging.unjudged_logins")
        definition = f"select message_id, masking.token(1, {inner}, {outer}, body) as masked_ip from staging.raw_logins"
        connection.execute(f"create view {view} as {definition}; grant select on {view} to transformer".encode())
    assert gets_the_key(masked, statements)


# What could look behind the columns of a view: each must fail or show none of it.
LOOKS = (
    "select keys.inner_block from staging.logins",
    "select (logins.*)::text, to_jsonb(logins) from staging.logins",
    "select masked_ip from staging.logins group by grouping sets ((masked_ip), ())",
    "select pg_get_viewdef('staging.logins'::regclass)",
    "create temp table mine as select * from staging.logins; analyze mine; select * from pg_stats where tablename = 'mine'",
    "create materialized view analytics.mine as select * from staging.logins; select * from analytics.mine",
    "select * from pg_stats where schemaname = 'masking'",
    "select masked_ip::integer from staging.logins",
    "select query_to_xml('select * from staging.logins', true, true, '')",
    "set statement_timeout = '1ms'; select count(distinct masked_ip) from staging.logins, generate_series(1, 9999)",
    "set plan_cache_mode = force_custom_plan; prepare mine2 as select * from staging.logins; explain (verbose) execute mine2",
    "set row_security = off; select * from masking.keys",
    "select masking.token(version, inner_block, outer_block, 'mine') from masking.keys",
)


def test_no_look_behind_a_view_shows_the_key(masked: Database) -> None:
    blocks = support.key_blocks(masked)
    for look in LOOKS:
        with masked.connect("transformer", autocommit=False) as connection:
            told = printed(connection, ["set client_min_messages = debug1", *look.split("; ")])
            connection.rollback()
        assert not canaries.keys_found_in(told, blocks), look
    # a view that selects a key is found
    masked.execute("create view staging.careless as table masking.keys; grant select on staging.careless to transformer")
    assert gets_the_key(masked, ["select to_jsonb(careless) from staging.careless"])


# Functions, operators, casts and types of the reader's, in front of PostgreSQL's own: what the views call was bound when they were made.
TRAPS = (
    "create function analytics.sha256(bytea) returns bytea language plpgsql as $$ begin raise notice 'trapped %', $1; return $1; end $$",
    "create function analytics.convert_to(text, name) returns bytea language plpgsql as $$ begin raise notice 'trapped'; return ''; end $$",
    "create function analytics.joined(bytea, bytea) returns bytea language plpgsql as $$ begin raise notice '%', $1; return $1; end $$",
    "create operator analytics.|| (leftarg = bytea, rightarg = bytea, function = analytics.joined)",
    """create function analytics.watched(text, text) returns boolean language plpgsql cost 0.0001 as
    $$ begin raise notice 'trapped % %', $1, $2; return true; end $$""",
    "create operator analytics.~~~ (leftarg = text, rightarg = text, function = analytics.watched, restrict = eqsel)",
    "create domain pg_temp.jsonb as text",
    "create temp table keys (domain text, version integer, inner_block bytea, outer_block bytea, created_at timestamptz)",
    "insert into keys values ('ip', 1, decode(repeat('36', 64), 'hex'), decode(repeat('5c', 64), 'hex'), now())",
    "set search_path = analytics, pg_temp, masking, staging, pg_catalog",
)
READS = (
    "select * from staging.logins",
    "select * from staging.logins where masked_ip ~~~ 'v'",
    "select * from staging.logins where analytics.watched(masked_device_id, masked_ip)",
    "select analytics.watched(logins::text, masked_ip) from staging.logins",
    "select * from staging.logins order by masked_ip || masked_device_id",
)


def test_nothing_of_the_readers_own_is_run_on_a_key(masked: Database) -> None:
    assert not gets_the_key(masked, [*TRAPS, *READS])
    known = masked.value(
        "select left(encode(masking.hmac_sha256(masking.hmac_block('', 54), masking.hmac_block('', 92), convert_to(body::jsonb ->> 'ip', "
        "'UTF8')), 'hex'), 32) from staging.raw_logins where pg_input_is_valid(body, 'jsonb') limit 1"
    )
    with masked.connect("transformer") as connection:
        assert known not in printed(connection, [*TRAPS, *READS])
    # without the owner's binding, as in a function that looks its operators up when it is called
    masked.execute(
        "create or replace function masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea) returns bytea "
        "language plpgsql stable as 'begin return sha256(outer_block || sha256(inner_block || message)); end'"
    )
    assert gets_the_key(masked, [*TRAPS, READS[0]])


def test_a_message_that_is_listed_without_a_body_or_has_its_outcome_gets_no_token(masked: Database) -> None:
    for role in ("loader", "transformer"):
        masked.execute("insert into staging.unjudged (message_id, sent_at) values ('192.0.2.1', now())", role=role)
    masked.execute("insert into staging.unjudged select message_id, sent_at from marts.user_logins on conflict do nothing")
    assert masked.value("select count(*) from staging.unjudged") > 2
    assert masked.rows("select * from staging.unjudged_logins", "transformer") == []


@pytest.mark.parametrize("statement", ["select masking.create_key('made up', {})", "select recovery.rotate()"])
def test_key_is_in_no_log_and_no_plan_when_it_is_made(masked: Database, statement: str) -> None:
    """Run by an administrator who has everything logged."""

    def shows_the_key() -> bool:
        with masked.connect() as connection:
            told = printed(connection, [*NOISY, *(statement.format(next(versions)) for _ in range(2))])
            connection.execute("set client_min_messages = warning")
            blocks = connection.execute("select inner_block, outer_block from masking.keys").fetchall()
            connection.execute("delete from masking.keys where domain = 'made up'")
        assert len(told) > 10_000
        # the key itself is its block without the padding
        keys = [bytes(byte ^ 0x36 for byte in inner[:32]) for inner, _ in blocks]
        return canaries.keys_found_in(told, [*keys, *(block for row in blocks for block in row)])

    versions = itertools.count(2)
    assert not shows_the_key()
    for function in ("masking.create_key(text, integer)", "recovery.rotate()"):
        masked.execute(f"alter function {function} reset plan_cache_mode")
    assert shows_the_key()


@pytest.mark.parametrize("column", ["inner_block", "outer_block"])
def test_statistics_hold_no_key(masked: Database, column: str) -> None:
    """ANALYZE copies values into pg_statistic, where they outlive their table."""

    def in_statistics() -> bool:
        masked.execute(
            "insert into masking.keys select domain || 'copy', version, inner_block, outer_block from masking.keys",
            "analyze masking.keys",
            "delete from masking.keys where domain ~ 'copy$'",
        )
        rows = masked.rows("select most_common_vals::text, histogram_bounds::text from pg_stats where tablename = 'keys'")
        return canaries.keys_found_in(str(rows).replace("\\\\x", ""), support.key_blocks(masked))

    assert not in_statistics()
    masked.execute(f"alter table masking.keys alter column {column} set statistics 100")
    assert in_statistics()

"""Who may call the masker and no more does not get its key."""

import psycopg
import pytest

from tests import canaries, support
from tests.support import Database

CALL = "select masking.tokens('ip', array['192.0.2.1'])"
PRINTED = ("debug_print_parse", "debug_print_rewritten", "debug_print_plan")


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


def test_key_is_not_in_a_printed_plan(masked: Database) -> None:
    """Anybody may have plans printed, also those of the statements inside a function that runs as its owner."""
    statements = ["set client_min_messages = log", "set debug_pretty_print = off", *(f"set {name} = on" for name in PRINTED), *[CALL] * 7]
    assert not gets_the_key(masked, statements)
    with masked.connect() as connection:
        connection.execute("alter function masking.tokens(text, text[]) reset plan_cache_mode")
    assert gets_the_key(masked, statements)


def test_key_is_not_in_an_explained_plan(masked: Database) -> None:
    statements = [f"explain (analyze, verbose, settings, buffers) {CALL}", f"explain (verbose, generic_plan) {CALL}"]
    assert not gets_the_key(masked, statements)
    # the guard removed: the key is in the expression, as the usual ways to mask in SQL have it
    inner, outer = (f"'\\x{block.hex()}'::bytea" for block in support.key_blocks(masked)[:2])
    assert gets_the_key(masked, [f"explain verbose select sha256({outer} || sha256({inner} || body::bytea)) from staging.raw_logins"])


def test_a_function_of_the_callers_is_not_run_as_the_owner(masked: Database) -> None:
    """With the caller's search path, a function of the caller's in the place of PostgreSQL's own reads the keys as their owner."""
    trap = """
        create function marts.convert_to(text, name) returns bytea language plpgsql as $$
        begin
            raise notice 'trapped %', (select array_agg(inner_block) from masking.keys);
            return '';
        end $$
    """
    statements = [trap, "grant execute on function marts.convert_to(text, name) to public", "grant usage on schema marts to public"]
    statements += ["set search_path = marts, pg_catalog", CALL]
    assert not gets_the_key(masked, statements)
    with masked.connect() as connection:
        connection.execute("alter function masking.tokens(text, text[]) reset search_path")
    assert gets_the_key(masked, statements[3:])


def with_a_temp_table(database: Database) -> str:
    """The token of an address as the masker gives it to somebody who has a table named as its key table is."""
    with database.connect("transformer") as connection:
        connection.execute(
            "create temp table keys (domain text, version integer, inner_block bytea, outer_block bytea, created_at timestamptz)"
        )
        connection.execute("insert into keys values ('ip', 1, decode(repeat('36', 64), 'hex'), decode(repeat('5c', 64), 'hex'), now())")
        connection.execute("grant select on keys to public")
        return str(connection.execute(CALL.encode()).fetchone())


def test_a_temp_table_does_not_supply_the_key(masked: Database) -> None:
    known = masked.value(
        "select left(encode(masking.hmac_sha256(masking.hmac_block('', 54), masking.hmac_block('', 92), '192.0.2.1'), 'hex'), 32)"
    )
    assert known not in with_a_temp_table(masked)
    with masked.connect() as connection:
        definition = connection.execute("select pg_get_functiondef('masking.tokens(text, text[])'::regprocedure)").fetchone()
        assert definition is not None
        unqualified = definition[0].replace("from masking.keys", "from keys").replace("key masking.keys", "key record")
        connection.execute(unqualified.replace("'pg_catalog', 'pg_temp'", "'masking', 'pg_catalog'").encode())
    assert known in with_a_temp_table(masked)


def test_a_callers_operator_is_not_used(masked: Database) -> None:
    statements = [
        (
            "create function marts.trap(bytea, bytea) returns bytea language plpgsql as $$ "
            "begin raise notice '%', (select array_agg(inner_block) from masking.keys); return ''; end $$"
        ),
        "create operator marts.|| (leftarg = bytea, rightarg = bytea, function = marts.trap)",
        "grant execute on function marts.trap to public",
        "grant usage on schema marts to public",
        "set search_path = marts, pg_catalog",
        CALL,
    ]
    assert not gets_the_key(masked, statements)
    with masked.connect() as connection:
        # hmac_sha256() has its operators fixed when it is made; written as text it would look them up at each call
        connection.execute(
            "create or replace function masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea) returns bytea "
            "language plpgsql immutable as 'begin return sha256(outer_block || sha256(inner_block || message)); end'"
        )
        connection.execute("alter function masking.tokens(text, text[]) reset search_path")
    assert gets_the_key(masked, statements[4:])


NOISY = (
    "load 'auto_explain'",
    "set auto_explain.log_min_duration = 0",
    "set auto_explain.log_nested_statements = on",
    "set auto_explain.log_verbose = on",
    "set auto_explain.log_parameter_max_length = -1",
    "set log_statement = 'all'",
    "set log_min_duration_statement = 0",
    "set log_parameter_max_length = -1",
    "set client_min_messages = log",
    "set debug_pretty_print = off",
    *(f"set {name} = on" for name in PRINTED),
)


@pytest.mark.parametrize("statement", ["select masking.create_key('ip')", "select recovery.begin_rotation()"])
def test_key_is_in_no_log_and_no_plan_when_it_is_made(masked: Database, statement: str) -> None:
    """Run by an administrator who has everything logged, of the statements inside functions too."""

    def shows_the_key() -> bool:
        with masked.connect() as connection:
            told = printed(connection, [*NOISY, *[statement] * 2])
            connection.execute("set client_min_messages = warning")
            blocks = connection.execute(
                "select inner_block, outer_block from masking.keys union all select inner_block, outer_block from recovery.next_keys"
            ).fetchall()
        assert len(told) > 10_000
        # the key itself is its block without the padding
        keys = [bytes(byte ^ 0x36 for byte in inner[:32]) for inner, _ in blocks]
        return canaries.keys_found_in(told, [*keys, *(block for row in blocks for block in row)])

    made = masked.value("select count(*) from masking.keys")
    assert not shows_the_key()
    assert masked.value("select (select count(*) from masking.keys) + (select count(*) from recovery.next_keys)") > made
    with masked.connect() as connection:
        connection.execute("alter function masking.create_key(text) reset plan_cache_mode; truncate recovery.next_keys, recovery.rotation")
    assert shows_the_key()


@pytest.mark.parametrize("role", ["analyst", "transformer", "loader", "pii_requester", "pii_approver", "privacy_officer"])
def test_no_relation_that_a_role_can_read_holds_a_key(masked: Database, role: str) -> None:
    """Not the catalog either: function sources, statistics, settings, the plans of views, comments."""

    def holding(database: Database) -> list[str]:
        with database.connect(role) as connection:
            texts = support.readable(connection)
        assert len(texts) > 100
        blocks = support.key_blocks(database)
        return [relation for relation, text in texts.items() if canaries.keys_found_in(text, blocks)]

    with masked.connect() as connection:
        connection.execute("analyze")
        assert holding(masked) == []
        key = support.key_blocks(masked)[0].hex()
        connection.execute(f"create function masking.visible() returns bytea language sql as 'select ''\\x{key}''::bytea'".encode())
    assert holding(masked) == ["pg_proc"]


@pytest.mark.parametrize("change", ["inner_block", "outer_block"])
def test_statistics_hold_no_key(masked: Database, change: str) -> None:
    """ANALYZE copies values into pg_statistic, where they outlive their table."""

    def in_statistics() -> bool:
        with masked.connect() as connection:
            connection.execute("insert into masking.keys select domain, version + 1, inner_block, outer_block from masking.keys")
            connection.execute("analyze masking.keys")
            connection.execute("delete from masking.keys where version > 1")
            rows = connection.execute(
                "select most_common_vals::text, histogram_bounds::text from pg_stats where tablename = 'keys'"
            ).fetchall()
        return canaries.keys_found_in(str(rows).replace("\\\\x", ""), support.key_blocks(masked))

    assert not in_statistics()
    with masked.connect() as connection:
        connection.execute(f"alter table masking.keys alter column {change} set statistics 100".encode())
    assert in_statistics()

import io

from rich.console import Console

from sandbox.query import print_query
from tests.support import Database


def printed(database: Database, query: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    with database.connect("analyst") as connection:
        print_query(connection, query, console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_values_are_printed_as_postgresql_writes_them_and_rows_are_counted(database: Database) -> None:
    values = "true, array[2, 3, 0], array['a', null], '{\"b\":1}'::json, 1.50, '2026-03-01'::date, '\\x00ff'::bytea, int4range(1, 3)"
    output = printed(database, f"select null as locale, {values}")
    shown = ["t", "{2,3,0}", "{a,NULL}", '{"b":1}', "1.50", "2026-03-01", "\\x00ff", "[1,3)"]
    assert output.splitlines()[3].split() == shown  # and nothing for null
    assert "1 row\n" in output


def test_a_result_without_rows_says_so(database: Database) -> None:
    assert printed(database, "select 1 where false") == "0 rows\n"


def test_a_long_result_is_cut_and_says_so(database: Database) -> None:
    assert "1000 rows, and more" in printed(database, "select generate_series(1, 1001)")
    assert "1000 rows\n" in printed(database, "select generate_series(1, 1000)")


def test_what_an_event_sent_cannot_steer_the_terminal(database: Database) -> None:
    output = printed(database, r"select E'\x1b[31m[red]user[/red]\r' as user_id")
    assert "\x1b" not in output
    assert "\r" not in output
    assert r"\x1b[31m[red]user[/red]\r" in output

"""dbt as a service: `python -m transform follow`."""

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from loader.migrate import migrate
from sandbox import postgres
from sandbox.processes import wait_until
from tests import canaries
from tests.judging.conftest import GOOD, Warehouse
from tests.support import DATABASE_FILES, Database, Running, create_copy, environment, land, running

SECONDS = 60
MASKED = "select count(*) from marts.user_logins"
# a run, and what its tests must wait for
STANDS_IN_THE_WAY = "lock table only marts.rejected_logins in share update exclusive mode"
HELD_UP = (
    "select count(*) from pg_stat_activity where usename = 'transformer' and wait_event_type = 'Lock' and datname = current_database()"
)
CAREFUL = DATABASE_FILES / "5_functions" / "masking.canonical_ip.sql"
CARELESS = (
    "create or replace function masking.canonical_ip(value text) returns text "
    "language plpgsql immutable strict as 'begin return host(value::inet); end'"
)


class Follower:
    """A running `follow`, and the folder that it writes to."""

    def __init__(self, started: Running, target: Path) -> None:
        self.started, self.target = started, target

    def runs(self, command: str = "run") -> list[Path]:
        return sorted(self.target.glob(f"runs/*-{command}"))

    def told(self, event: str) -> list[str]:
        """The reasons of all events of that name."""
        return [each.get("reason", "") for each in self.started.events if each["event"] == event]

    def waits_for(self, event: str, times: int = 1) -> None:
        assert wait_until(lambda: len(self.told(event)) >= times, SECONDS), self.started.output

    def looks_again(self) -> None:
        """Wait until it has found nothing that waits."""
        file = self.target / "up_to_date"
        before = file.stat().st_mtime_ns
        assert wait_until(lambda: file.stat().st_mtime_ns > before, SECONDS), self.started.output

    def masks(self, database: Database, logins: int) -> None:
        assert wait_until(lambda: database.value(MASKED) == logins, SECONDS), self.started.output


@contextlib.contextmanager
def following(database: Database, folder: Path, **variables: str) -> Iterator[Follower]:
    """A `follow` on *database* that has looked once."""
    environ = environment(database, outputs=folder) | variables
    with running("transform follow", environ, folder / "log") as started:
        follower = Follower(started, folder / "target")
        follower.waits_for("up to date")
        yield follower


def test_a_message_that_lands_is_masked_by_itself_and_nothing_runs_while_nothing_waits(database: Database, tmp_path: Path) -> None:
    with following(database, tmp_path, TRANSFORM_TEST_SECONDS="0.1") as follower:
        follower.looks_again()
        assert follower.runs() == follower.runs("test") == []
        land(database, [GOOD])
        follower.masks(database, 1)
        follower.waits_for("dbt test")
        for _ in range(2):
            follower.looks_again()
        assert (len(follower.runs()), len(follower.runs("test"))) == (1, 1)
        (run,) = follower.runs()
        assert {"dbt.log", "run_results.json"} <= {path.name for path in run.iterdir()}
        (told,) = (each for each in follower.started.events if each["event"] == "dbt run")
        assert (told["user_logins"], told["rejected_logins"]) == (1, 0)
        children = psutil.Process(follower.started.process.pid).children()
        assert follower.started.end() == os.EX_OK
        assert wait_until(lambda: not any(child.is_running() for child in children), SECONDS)


@pytest.mark.slow
def test_a_run_that_fails_is_one_line_without_a_value_and_the_next_one_succeeds(database: Database, tmp_path: Path) -> None:
    """Even if PostgreSQL's message quotes one, for a guard was removed, and dbt has written it down."""
    with following(database, tmp_path) as follower:
        database.execute(CARELESS)
        land(database, canaries.events())
        follower.waits_for("dbt run failed")
        seen = (follower.target / "up_to_date").stat().st_mtime_ns
        database.execute(CAREFUL.read_text())
        follower.waits_for("dbt run")
        failed = follower.runs()[:-1]
        assert follower.told("dbt run failed") == [f"model.user_logins.user_logins error; see {folder}" for folder in failed]
        assert seen < failed[0].stat().st_mtime_ns < (follower.target / "up_to_date").stat().st_mtime_ns
        assert database.value("select count(*) from staging.unjudged") == 0
        assert follower.started.end() == os.EX_OK
        assert canaries.found_under(failed[0]) == {canaries.NO_ADDRESS}
        assert not canaries.found_in(follower.started.output)
        assert not canaries.found_under(follower.runs()[-1])


@pytest.mark.slow
def test_tests_that_fail_are_told_until_they_pass_which_it_is_not_up_to_date_without(database: Database, tmp_path: Path) -> None:
    with following(database, tmp_path, TRANSFORM_TEST_SECONDS="0.1") as follower:
        land(database, ["no JSON"])
        follower.waits_for("dbt test failed")
        assert follower.told("dbt test failed")[0].startswith("test.user_logins.assert_few_messages_are_rejected fail; see ")
        seen = (follower.target / "up_to_date").stat().st_mtime_ns
        follower.waits_for("dbt test failed", 2)
        assert (follower.target / "up_to_date").stat().st_mtime_ns == seen
        land(database, [GOOD] * 20)
        follower.looks_again()
        assert follower.started.end() == os.EX_OK


@pytest.mark.slow
@pytest.mark.parametrize(("grace_seconds", "masked"), [("60", 1), ("0.5", 0)])
def test_when_told_to_stop_it_lets_a_run_end_for_so_long(database: Database, tmp_path: Path, grace_seconds: str, masked: int) -> None:
    with following(database, tmp_path, TRANSFORM_GRACE_SECONDS=grace_seconds) as follower:
        with database.connect() as other, other.transaction():
            other.execute(STANDS_IN_THE_WAY)
            land(database, [GOOD])
            assert wait_until(lambda: database.value(HELD_UP) == 1, SECONDS)
            for child in psutil.Process(follower.started.process.pid).children():
                child.send_signal(signal.SIGINT)  # as Ctrl-C does
            follower.started.send(signal.SIGTERM)
            follower.waits_for("finishing")
            if not masked:
                assert follower.started.wait() == os.EX_OK
        assert follower.started.wait() == os.EX_OK
        assert wait_until(lambda: database.value(HELD_UP) == 0, SECONDS)
        assert (database.value(MASKED), database.value("select count(*) from staging.unjudged")) == (masked, 1 - masked)


@pytest.mark.slow
def test_what_runs_left_goes_when_it_is_old_or_too_much(database: Database, tmp_path: Path) -> None:
    runs = tmp_path / "target" / "runs"
    ours = {name: runs / f"{name}-01-01T00.00.00.000000-run" for name in ("2001", "9998", "9999")}
    for folder in ours.values():
        folder.mkdir(parents=True)
        (folder / "dbt.log").touch()
    with following(database, tmp_path, TRANSFORM_KEEP_DAYS="0.5"):
        assert wait_until(lambda: not ours["2001"].exists(), SECONDS)
        assert ours["9998"].exists()
    with following(database, tmp_path, TRANSFORM_KEEP_RUNS="1"):
        assert wait_until(lambda: not ours["9998"].exists(), SECONDS)
        assert ours["9999"].exists()


@pytest.mark.slow
def test_it_goes_on_when_the_server_is_back_and_tells_once_that_it_was_away(
    passwords: Mapping[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with postgres.throwaway(tmp_path_factory.mktemp("restarted"), secrets.token_urlsafe()) as server:
        database = Database(server, "restarted", passwords)
        create_copy(server, database.name, "template0")
        with database.connect() as connection:
            migrate(connection, DATABASE_FILES, passwords)
        with following(database, tmp_path) as follower:
            postgres.stop(server)
            follower.waits_for("no answer from PostgreSQL")
            with socket.create_server(("127.0.0.1", server.port)) as nobody:
                for _ in range(3):  # attempts
                    nobody.accept()[0].close()
            postgres.start(server)
            land(database, [GOOD])
            follower.masks(database, 1)
            assert len(follower.told("no answer from PostgreSQL")) == len(follower.told("PostgreSQL answers again")) == 1
            assert follower.started.end() == os.EX_OK


@pytest.mark.slow
def test_it_parses_the_project_again_when_a_file_has_changed_and_waits_while_dbt_refuses_it(database: Database, tmp_path: Path) -> None:
    warehouse, model = Warehouse(database, tmp_path), "dbt_project/models/marts/user_logins.sql"
    with following(database, tmp_path, DBT_PROJECT_DIR=str(warehouse.copy("dbt_project"))) as follower:
        warehouse.edit(model, "from accepted", "from accepted {% nothing %}")
        follower.waits_for("dbt refuses the project")
        land(database, [GOOD])
        warehouse.edit(model, " {% nothing %}", "")
        follower.masks(database, 1)
        assert (len(follower.told("project parsed")), len(follower.runs())) == (2, 1)
        assert follower.started.end() == os.EX_OK


@pytest.mark.slow
def test_with_rds_iam_auth_it_needs_no_password_and_sends_a_token_to_a_verified_server_alone(database: Database, tmp_path: Path) -> None:
    environ = environment(database, outputs=tmp_path) | {"RDS_IAM_AUTH": "true"}
    del environ["TRANSFORMER_PASSWORD"]
    with running("transform follow", environ, tmp_path / "log", cwd=tmp_path) as started:
        follower = Follower(started, tmp_path / "target")
        follower.waits_for("no answer from PostgreSQL")
        assert "an RDS token is sent to one verified server alone" in follower.told("no answer from PostgreSQL")[0]
        assert len(follower.told("project parsed")) == 1
        assert started.end() == os.EX_OK


def test_a_missing_variable_is_named(database: Database, tmp_path: Path) -> None:
    environ = environment(database, outputs=tmp_path) | {"TRANSFORMER_PASSWORD": ""}
    with running("transform follow", environ, tmp_path / "log", cwd=tmp_path) as started:
        assert started.wait() == os.EX_CONFIG
        assert started.output == "TRANSFORMER_PASSWORD is not set; see .env.example, or run make up, which writes .env\n"

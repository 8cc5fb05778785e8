"""The analysts' pictures: dbt-charts draws the board dbt_project/charts/logins.yml with the analyst's login."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from sandbox.errors import SandboxError
from sandbox.processes import HOST
from sandbox.query import psql
from sandbox.settings import required

DBT_PROJECT = Path("dbt_project")
BOARD = Path("charts/logins.yml")
DCT = Path(".venv/report/bin/dct")  # an environment of its own, see the Makefile
NO_CACHE = "--no-cache"  # else dbt-charts writes a file for cached rows, even if dbt_charts.yml says that none are


def draw(picture: Path, environ: Mapping[str, str]) -> None:
    """Draw the board into *picture*, in the format that its suffix names: .html, .png, .svg or .pdf.

    Raises:
        SandboxError: a variable is missing, the server or a view cannot be reached, or dbt-charts fails.
    """
    options = [NO_CACHE, "--no-warnings", f"--format={picture.suffix[1:]}", f"--output={picture.absolute()}"]
    command = [*_dct(environ), "render", str(BOARD), *options]
    ran = subprocess.run(command, cwd=DBT_PROJECT, env=_quiet(environ), capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SandboxError(f"{picture} was not drawn: {' '.join(ran.stderr.split())}", os.EX_SOFTWARE)


def serve(environ: Mapping[str, str]) -> NoReturn:
    """Become a web server on this machine alone that draws the board anew for each reader; SandboxError as for `draw`."""
    command = [*_dct(environ), "serve", "--host", HOST, NO_CACHE]
    os.chdir(DBT_PROJECT)
    os.execve(command[0], command, _quiet(environ))  # noqa: S606  a list of words


def _quiet(environ: Mapping[str, str]) -> dict[str, str]:
    return dict(environ) | {"DO_NOT_TRACK": "1"}


def _dct(environ: Mapping[str, str]) -> list[str]:
    """The program, once the board's views are known to be there and readable: dbt-charts takes many lines to say that they are not."""
    for name in ("PGHOST", "PGPORT", "PGDATABASE"):
        required(environ, name)
    views = sorted(set(re.findall(r"\banalytics\.\w+", (DBT_PROJECT / BOARD).read_text())))
    made = "run make demo, or dbt run, which makes the views"
    psql("analyst", ["--output=/dev/null", "--command", f"select from {', '.join(views)} limit 0"], environ, made)
    if not DCT.exists():
        raise SandboxError(f"{DCT} is not there; run make report, which installs it", os.EX_CONFIG)
    # by its Python, because the program's first line names the place where it was installed
    return [str(DCT.absolute().with_name("python")), str(DCT.absolute())]

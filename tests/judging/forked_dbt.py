"""dbt with its imports and its parsing done once: each run is a fork, so it starts in no time, alone, and can be killed."""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

DATABASE = "judging"
PARSED_PROJECT = "tests.judging.parsed_project"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([PARSED_PROJECT])


def start(words: list[str], environ: Mapping[str, str], directory: Path) -> ForkServerProcess:
    """Start `dbt WORDS…`; its output, log and target/ go into *directory*. Exit codes are dbt's: 0, 1 for failures, 2 for errors."""
    directory.mkdir(parents=True, exist_ok=True)
    process = _context.Process(target=_invoke, args=(words, dict(environ), directory))
    process.start()
    return process


def _invoke(words: list[str], environ: dict[str, str], directory: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(directory / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  # here it is there already; in the tests' own process it would take seconds

    from tests.judging.parsed_project import FOLDERS, MANIFEST  # noqa: PLC0415  # the same

    paths = ["--target-path", str(directory / "target"), "--log-path", str(directory / "logs"), "--no-use-colors"]
    result = dbtRunner(manifest=MANIFEST).invoke([*words, *FOLDERS, *paths])
    sys.exit(0 if result.success else 2 if result.exception else 1)

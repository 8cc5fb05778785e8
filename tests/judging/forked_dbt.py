"""dbt with its imports and its parsing done once: each run is a fork, so it starts in no time, alone, and can be killed."""

import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests import forks

DATABASE = "judging"

forks.preload("tests.judging.parsed_project")


def start(words: list[str], environ: Mapping[str, str], directory: Path) -> ForkServerProcess:
    """Start `dbt WORDS…`; its output, log and target/ go into *directory*. Exit codes are dbt's: 0, 1 for failures, 2 for errors."""
    directory.mkdir(parents=True, exist_ok=True)
    return forks.start(_invoke, environ, directory / "output", words, directory)


def _invoke(words: list[str], directory: Path) -> None:
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  # here it is there already; in the tests' own process it would take seconds

    from tests.judging.parsed_project import FOLDERS, MANIFEST  # noqa: PLC0415  # the same

    paths = ["--target-path", str(directory / "target"), "--log-path", str(directory / "logs"), "--no-use-colors"]
    result = dbtRunner(manifest=MANIFEST).invoke([*words, *FOLDERS, *paths])
    sys.exit(0 if result.success else 2 if result.exception else 1)

"""dbt, started once: a run is a fork of the process that has imported it and parsed the project.

So a run takes half a second where `dbt` takes five, and whatever it opens or remembers ends with it.
"""

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MAX_RUN_SECONDS = 3600  # a run of a million messages takes minutes; a killed one takes nothing off the work list
# The static parser starts threads, and a fork is without them. Without no-write-json, each run writes the manifest's 600 kB.
OPTIONS = ["--log-level", "none", "--no-static-parser", "--no-partial-parse", "--no-write-json"]

FILES = ["*.yml", *(f"{folder}/**/*.{kind}" for folder in ("models", "macros", "tests") for kind in ("sql", "yml"))]


class Project:
    """The project that dbt's own variables name, by default ours."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        """Add *options* to each of dbt's commands."""
        self.folder = Path(os.environ.get("DBT_PROJECT_DIR") or ROOT / "dbt_project")
        self.target = Path(os.environ.get("DBT_TARGET_PATH") or self.folder / "target").absolute()
        profiles = os.environ.get("DBT_PROFILES_DIR") or str(self.folder / "profiles")
        self.options = ["--project-dir", str(self.folder), "--profiles-dir", profiles, *OPTIONS, *options]
        self.manifest: Any = None

    def files(self) -> frozenset[tuple[str, int]]:
        """The project's files, each with the time of its last change."""
        found = set()
        for path in itertools.chain.from_iterable(map(self.folder.glob, FILES)):
            with contextlib.suppress(FileNotFoundError):  # an editor has it away for a moment
                found.add((str(path), path.stat().st_mtime_ns))
        return frozenset(found)

    def parse(self) -> None:
        """Have dbt make the manifest.

        Raises:
            ValueError: dbt refuses the project, and says why.
        """
        from dbt.cli.main import dbtRunner  # noqa: PLC0415  # takes seconds; until then no signal would be handled

        self.manifest = None
        gc.unfreeze()
        parsed = dbtRunner().invoke(["parse", *self.options, "--log-level-file", "none", "--target-path", str(self.target)])
        if not parsed.success:
            raise ValueError(" ".join(str(parsed.exception).split()))
        self.manifest = parsed.result
        import_module("dbt.task.build")  # or each run would import it
        gc.freeze()  # no run's collector goes through what is here already

    def start(self, words: Sequence[str], folder: Path, password: str) -> ForkProcess:
        """Start `dbt WORDS…`, which writes to *folder*; the exit code is 0, or 1 where anything failed."""
        threads = len(list(Path("/proc/self/task").glob("*"))) or threading.active_count()
        if threads != 1:
            raise RuntimeError(f"{threads} threads run, and a fork would have one of them")
        folder.mkdir(parents=True)
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(words, folder, password))
        process.start()
        return process

    def _run(self, words: Sequence[str], folder: Path, password: str) -> None:
        from dbt.artifacts.schemas.run import RunExecutionResult  # noqa: PLC0415  # imported by now
        from dbt.cli.main import dbtRunner  # noqa: PLC0415

        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.SIG_IGN)  # Ctrl-C goes to the children too, and the parent decides
        signal.alarm(MAX_RUN_SECONDS)
        for number in (1, 2):
            os.dup2(os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.environ["TRANSFORMER_PASSWORD"] = password
        logs = ["--log-level-file", "debug", "--log-path", str(folder)]
        ran = dbtRunner(manifest=self.manifest).invoke([*words, *self.options, *logs, "--target-path", str(folder)])
        if isinstance(ran.result, RunExecutionResult):
            ran.result.write(str(folder / "run_results.json"))
        sys.exit(not ran.success)


def results(folder: Path) -> dict[str, tuple[str, int]]:
    """What became of each model or test of a run: its status, and how many rows it wrote. Never a message: it may quote a value."""
    try:
        found = json.loads((folder / "run_results.json").read_text())["results"]
    except (OSError, ValueError):  # dbt did not come to it
        return {}
    return {each["unique_id"]: (each["status"], each["adapter_response"].get("rows_affected", 0)) for each in found}

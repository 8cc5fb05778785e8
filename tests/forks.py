"""Processes that start in no time: forked from one that has done their imports. Each is alone, and can be killed.

All tests of a run share the one that they are forked from, so what it imports is collected from them before it starts.
"""

import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_modules: list[str] = []


def preload(module: str) -> None:
    """Have *module* imported before anything is forked; to be called when a test file is imported."""
    if module not in _modules:
        _modules.append(module)
        _context.set_forkserver_preload(_modules)


def start(
    work: Callable[..., Any],
    environ: Mapping[str, str],
    output: Path,
    *arguments: Any,
    errors: Path | None = None,
    stdin: Path | None = None,
) -> ForkServerProcess:
    """Start *work* with *arguments* and no environment but *environ*; it prints to the file *output*, errors to *errors* if given."""
    process = _context.Process(target=_run, args=(work, dict(environ), (output, errors or output, stdin), arguments))
    process.start()
    return process


def command(module: str, words: list[str], cwd: Path) -> None:
    """`python -m MODULE WORDS…` in *cwd*."""
    os.chdir(cwd)
    sys.argv = [module, *words]
    logging.root.handlers.clear()  # what was imported beside it has added one
    if os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("default")
    import_module(f"{module}.__main__").main()


def dbt(words: list[str], cwd: Path) -> None:
    """`dbt WORDS…` in *cwd*. Exit codes are dbt's: 0, 1 for failures, 2 for errors."""
    from tests.preloaded import run_dbt  # noqa: PLC0415  # here it is there already; in the tests' own process it would take seconds

    os.chdir(cwd)
    sys.exit(run_dbt(words))


def _run(work: Callable[..., Any], environ: dict[str, str], files: tuple[Path, Path, Path | None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output, errors, stdin = files
    for path, number in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if stdin:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing has put /dev/null there
    work(*arguments)

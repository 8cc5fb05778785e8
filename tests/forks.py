"""Processes that start in no time: forked from one that has done their imports. Each is alone, and can be killed.

All tests of a run share the one that they are forked from, so what it imports is collected from them before it starts.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
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


def start(work: Callable[..., Any], environ: Mapping[str, str], output: Path, *arguments: Any) -> ForkServerProcess:
    """Start *work* with *arguments* and no environment but *environ*; what it prints, errors too, goes to the file *output*."""
    process = _context.Process(target=_run, args=(work, dict(environ), output, arguments))
    process.start()
    return process


def _run(work: Callable[..., Any], environ: dict[str, str], output: Path, arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    work(*arguments)

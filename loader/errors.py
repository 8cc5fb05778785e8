"""What stops the loader, said in one line with what to do and an exit code from sysexits(3), and what it tries again."""

import functools
import os
import random


class LoaderError(Exception):
    """The loader cannot go on; the message is one line without personal values, *exit_code* is one of `os.EX_*`."""

    def __init__(self, message: str, exit_code: int = os.EX_SOFTWARE) -> None:  # noqa: D107  # said above
        super().__init__(message)
        self.exit_code = exit_code


class TemporaryError(Exception):
    """Something failed that may work when it is tried again; the message is one line without personal values."""

    code = ""


class SqsError(TemporaryError):
    """A call failed: *code* is SQS's own without its namespace, or `Unreachable`, `InvalidAnswer` or `NoCredentials`."""

    def __init__(self, code: str, message: str) -> None:  # noqa: D107  # said above
        super().__init__(f"{code}: {message}")
        self.code = code


wrong_setting = functools.partial(LoaderError, exit_code=os.EX_CONFIG)  # a variable is missing, or its value cannot be used
unavailable = functools.partial(LoaderError, exit_code=os.EX_UNAVAILABLE)  # a server or the queue does not answer, or is not there
refused = functools.partial(LoaderError, exit_code=os.EX_NOPERM)  # a server refuses our credentials or an action
unfinished = functools.partial(LoaderError, exit_code=os.EX_TEMPFAIL)  # stopped before the work was done; run it again


def first_line(error: BaseException) -> str:
    """What *error* says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def backoff_seconds(failures: int) -> float:
    """How long to wait after *failures* in a row: from 0.1 s it doubles, up to 5 s; random, so that loaders keep out of step."""
    return random.uniform(0.5, 1) * min(5.0, 0.1 * 2.0 ** min(failures - 1, 10)) if failures else 0.0  # noqa: S311  # no secret

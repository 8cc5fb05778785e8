"""What stops the loader, said in one line with what to do and an exit code from sysexits(3), and what it tries again."""

import functools
import os


class LoaderError(Exception):
    """The loader cannot go on; the message is one line without personal values, *exit_code* is one of `os.EX_*`."""

    def __init__(self, message: str, exit_code: int) -> None:  # noqa: D107  # said above
        super().__init__(message)
        self.exit_code = exit_code


class TemporaryError(Exception):
    """Something failed that may work when it is tried again; the message is one line without personal values."""


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

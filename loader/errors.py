"""What stops the loader, said in one line with what to do, and an exit code from sysexits(3)."""

import os


class LoaderError(Exception):
    """The loader cannot go on; the message is one line for a person, without personal values."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep *exit_code*, one of `os.EX_*`, for the command line to exit with."""
        super().__init__(message)
        self.exit_code = exit_code


def wrong_setting(message: str) -> LoaderError:
    """A variable is missing or has a value that cannot be used."""
    return LoaderError(message, os.EX_CONFIG)


def unavailable(message: str) -> LoaderError:
    """A server or the queue does not answer, or is not there."""
    return LoaderError(message, os.EX_UNAVAILABLE)


def refused(message: str) -> LoaderError:
    """A server answers, and refuses our credentials or an action."""
    return LoaderError(message, os.EX_NOPERM)


def unfinished(message: str) -> LoaderError:
    """Stopped before the work was done; running it again goes on with it."""
    return LoaderError(message, os.EX_TEMPFAIL)

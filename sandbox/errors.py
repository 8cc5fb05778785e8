"""The sandbox's errors, each one line."""

import os

import psycopg


class SandboxError(Exception):
    """What failed, what was found and what to do, in one line without personal values.

    *exit_code* is one of sysexits' (os.EX_*).
    """

    def __init__(self, message: str, exit_code: int = os.EX_UNAVAILABLE) -> None:
        """Keep the one-line *message* and the process's *exit_code*."""
        super().__init__(message)
        self.exit_code = exit_code


def refusal(error: psycopg.OperationalError) -> str:
    """Why PostgreSQL refused the connection: the first line of libpq's message, which adds hints and further attempts below."""
    return str(error).strip().splitlines()[0].removeprefix("connection failed: ")

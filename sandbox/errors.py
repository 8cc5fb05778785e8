"""The sandbox's errors, each one line."""

import os


class SandboxError(Exception):
    """What failed, what was found and what to do, in one line without personal values; *exit_code* is one of `os.EX_*`."""

    def __init__(self, message: str, exit_code: int = os.EX_UNAVAILABLE) -> None:  # noqa: D107  # said above
        super().__init__(message)
        self.exit_code = exit_code

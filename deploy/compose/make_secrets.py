"""Creates the passwords of the compose project once, each in a volume that only its readers' containers mount.

A password from the environment (from .env, for example) is used as it is. Any other is random, and kept if it exists already.
One volume for each kind of reader is mounted below /secrets.
"""

import os
import secrets
from pathlib import Path

# the variables in each volume
READERS = {
    "admin": ("ADMIN_PASSWORD", "LOADER_PASSWORD", "TRANSFORMER_PASSWORD", "ANALYST_PASSWORD", "PRIVACY_OFFICER_PASSWORD"),
    "loader": ("LOADER_PASSWORD",),
    "transformer": ("TRANSFORMER_PASSWORD",),
    "analyst": ("ANALYST_PASSWORD",),
    "privacy-officer": ("PRIVACY_OFFICER_PASSWORD",),
}


def make(directory: Path) -> None:
    """Write the passwords below *directory*. Any uid may read a file, because a container mounts only its own volume."""
    for name in READERS["admin"]:
        first = directory / "admin" / name
        value = os.environ.get(name) or (first.read_text() if first.exists() else secrets.token_urlsafe(24))
        for volume, names in READERS.items():
            if name in names:
                path = directory / volume / name
                path.unlink(missing_ok=True)
                path.write_text(value)
                path.chmod(0o444)


if __name__ == "__main__":
    make(Path("/secrets"))

"""Makes the passwords of the compose project, once, each where only its readers' containers see it.

A password that the environment sets (from .env, say) is taken as it is; any other is random, and kept when it is there already.
Mounted below /secrets is one volume for each kind of reader.
"""

import os
import secrets
from pathlib import Path

# volume to the variables that it holds
READERS = {
    "admin": ("ADMIN_PASSWORD", "LOADER_PASSWORD", "TRANSFORMER_PASSWORD", "ANALYST_PASSWORD", "PRIVACY_OFFICER_PASSWORD"),
    "loader": ("LOADER_PASSWORD",),
    "transformer": ("TRANSFORMER_PASSWORD",),
    "analyst": ("ANALYST_PASSWORD",),
    "privacy-officer": ("PRIVACY_OFFICER_PASSWORD",),
}


def make(directory: Path) -> None:
    """Write what is missing or set below *directory*; a container sees its own volume alone, so any uid in it may read."""
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

"""What a token for RDS needs, and what is said where it is missing."""

import os

import boto3
import pytest

from loader import login
from loader.errors import LoaderError

RIGHT = {
    "PGHOST": "localhost",
    "PGPORT": "5432",
    "PGSSLMODE": "verify-full",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "a-made-up-secret",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}
NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
NO_IDENTITY = {"AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/loader", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent"}


def token_with(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> str:
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        monkeypatch.delenv(name)
    for name, value in (RIGHT | change).items():
        if value:
            monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")  # where no .env is
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # a process has one of this, and of the client
    return login.token_for("loader")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"PGSSLMODE": "require"},
            "PGSSLMODE is require, PGHOST is localhost and PGPORT 5432, and an RDS token is sent to one verified server ",
        ),
        ({"PGSSLMODE": ""}, "PGSSLMODE is prefer, "),
        ({"PGHOST": ""}, "PGSSLMODE is verify-full, PGHOST is not set and PGPORT 5432, and "),
        ({"PGHOST": "localhost,localhost"}, "PGSSLMODE is verify-full, PGHOST is localhost,localhost and PGPORT 5432, and "),
        ({"PGPORT": "5432,5433"}, "PGSSLMODE is verify-full, PGHOST is localhost and PGPORT 5432,5433, and "),
        (NO_KEYS, "AWS configuration: Unable to locate credentials; correct it, "),
        ({"AWS_DEFAULT_REGION": ""}, "AWS configuration: You must specify a region.; correct it, "),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS configuration: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY; correct it"),
        ({"AWS_PROFILE": "nobody"}, "AWS configuration: The config profile (nobody) could not be found; correct it"),
        ({"AWS_ENDPOINT_URL": "nowhere"}, "AWS configuration: Invalid endpoint: nowhere; correct it, "),
        (NO_KEYS | NO_IDENTITY, "AWS configuration: [Errno 2] No such file or directory: '/nonexistent'; correct it, "),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_no_token_is_made_where_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str) -> None:
    with pytest.raises(LoaderError) as caught:
        token_with(monkeypatch, change)
    assert caught.value.exit_code == os.EX_CONFIG
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)

"""How a connection to PostgreSQL proves who we are, and what to do where it fails."""

import functools
import os
from typing import Any

import boto3
import psycopg
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError, ProfileNotFound
from pydantic import SecretStr

from loader.aws import error_code
from loader.errors import LoaderError, first_line, refused, unavailable, wrong_setting
from loader.settings import TokenSettings, read


class NoCredentialsNowError(LoaderError):
    """AWS does not give the credentials to sign a token with; later it may."""


def password_for(user: str, kept: str | SecretStr | None) -> str | None:
    """The password for one connection of *user*: *kept*, or a new token where RDS_IAM_AUTH asks for it."""
    secret = kept.get_secret_value() if isinstance(kept, SecretStr) else kept
    return token_for(user) if read(TokenSettings).rds_iam_auth else secret


def token_for(user: str) -> str:
    """A token that RDS takes as the password of *user* for 15 minutes; signed here, with the AWS credentials, asking nobody.

    Raises a LoaderError, and where the credentials cannot be fetched now, a NoCredentialsNowError.
    """
    settings = read(TokenSettings)
    host, port = settings.pghost or "not set", settings.pgport or "5432"
    if settings.pgsslmode != "verify-full":
        # RDS has the token sent as it is, so whoever answers in its place could use it.
        raise wrong_setting(
            f"PGSSLMODE is {settings.pgsslmode}, and an RDS token is sent to a verified server alone; set it to verify-full"
        )
    if not settings.pghost or "," in host + port:
        raise wrong_setting(
            f"PGHOST is {host} and PGPORT {port}, and an RDS token is for one host; set them to the endpoint that RDS gives"
        )
    try:
        token: str = _rds(settings.aws_region).generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername=user)
    except NoRegionError:
        raise wrong_setting("AWS_DEFAULT_REGION is not set, and an RDS token is for one region; set it to the server's") from None
    except NoCredentialsError:
        found = "AWS credentials: none found to sign an RDS token"
        raise wrong_setting(f"{found}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role") from None
    except (PartialCredentialsError, ProfileNotFound, OSError, ValueError) as error:
        raise wrong_setting(
            f"AWS configuration: {first_line(error)}; correct it, for an RDS token is signed with its credentials"
        ) from None
    except (BotoCoreError, ClientError) as error:
        code = error_code(error)  # its words are whatever a program or a server said, so it is only named
        message = f"AWS gives no credentials to sign an RDS token ({code or type(error).__name__}); check the role or the profile of this"
        exit_code = os.EX_NOPERM if code else os.EX_UNAVAILABLE
        raise NoCredentialsNowError(f"{message} machine, and its way to AWS", exit_code) from None
    return token


@functools.cache
def _rds(region: str | None) -> Any:
    """One client per process: it fetches temporary credentials anew before they expire."""
    return boto3.client("rds", region_name=boto3.Session().region_name or region)


def refusal(error: psycopg.Error, variable: str, user_variable: str) -> LoaderError:
    """What to do where connecting failed with *error*; *variable* is that of the password.

    By libpq's own state, for an error in connecting has no SQLSTATE, and its words are in the language of the server.
    """
    found, connection = first_line(error), error.pgconn
    if connection and connection.needs_password:
        return wrong_setting(f"{variable} is not set; copy .env.example to .env or run make up")
    if connection and connection.used_password:  # the server answered, and had us prove who we are
        if read(TokenSettings).rds_iam_auth:
            return refused(f"{found}; let this AWS identity rds-db:connect as this user, and grant rds_iam to the user")
        return refused(f"{found}; check {variable}, {user_variable} and PGDATABASE, or run python -m loader migrate")
    return unavailable(f"{found}; start the server, or check PGHOST, PGPORT, PGSSLMODE and PGSSLROOTCERT")

"""How a connection to PostgreSQL proves who we are, and what to do where it fails."""

import os

import boto3
import botocore.exceptions as failures
import psycopg
from pydantic import SecretStr

from loader.aws import error_code
from loader.errors import LoaderError, first_line, refused, unavailable, wrong_setting
from loader.settings import TokenSettings, read


def password_for(user: str, kept: str | SecretStr | None) -> str | None:
    """The password for one connection of *user*: *kept*, or a new token where RDS_IAM_AUTH asks for it."""
    secret = kept.get_secret_value() if isinstance(kept, SecretStr) else kept
    return token_for(user) if read(TokenSettings).rds_iam_auth else secret


def token_for(user: str) -> str:
    """A token that RDS takes as the password of *user* for 15 minutes, signed here with the AWS credentials; or a LoaderError."""
    settings = read(TokenSettings)
    host, port = settings.pghost or "not set", settings.pgport or "5432"
    if settings.pgsslmode != "verify-full":
        # RDS has the token sent as it is, so whoever answers in its place could use it.
        found = f"PGSSLMODE is {settings.pgsslmode}"
        raise wrong_setting(f"{found}, and an RDS token is sent to a verified server alone; set it to verify-full")
    if not settings.pghost or "," in host + port:
        found = f"PGHOST is {host} and PGPORT {port}"
        raise wrong_setting(f"{found}, and an RDS token is for one host; set them to the endpoint that RDS gives")
    try:
        region = boto3.Session().region_name or settings.aws_region
        token: str = boto3.client("rds", region_name=region).generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername=user)
    except failures.NoRegionError:
        raise wrong_setting("AWS_DEFAULT_REGION is not set, and an RDS token is for one region; set it to the server's") from None
    except failures.NoCredentialsError:
        found = "AWS credentials: none found to sign an RDS token"
        raise wrong_setting(f"{found}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role") from None
    except (failures.PartialCredentialsError, failures.ProfileNotFound, OSError, ValueError) as error:
        found = f"AWS configuration: {first_line(error)}"
        raise wrong_setting(f"{found}; correct it, for an RDS token is signed with its credentials") from None
    except (failures.BotoCoreError, failures.ClientError) as error:
        code = error_code(error)  # its words are whatever a program or a server said, so it is only named
        found = f"AWS gives no credentials to sign an RDS token ({code or type(error).__name__})"
        advice, exit_code = "check the role or the profile of this machine, and its way to AWS", os.EX_NOPERM if code else os.EX_UNAVAILABLE
        raise LoaderError(f"{found}; {advice}", exit_code) from None
    return token


def refusal(error: psycopg.Error, variable: str, user_variable: str) -> LoaderError:
    """What to do where connecting failed with *error*; *variable* is that of the password.

    By libpq's own state, for an error in connecting has no SQLSTATE, and its words are in the language of the server.
    """
    found, connection = first_line(error), error.pgconn
    if connection and connection.needs_password:
        return wrong_setting(f"{variable} is not set; set it, or run make up, which writes .env")
    if connection and connection.used_password:  # the server answered, and had us prove who we are
        if read(TokenSettings).rds_iam_auth:
            return refused(f"{found}; let this AWS identity rds-db:connect as this user, and grant rds_iam to the user")
        sets = "make up" if variable == "ADMIN_PASSWORD" else "python -m loader migrate"
        return refused(f"{found}; check {variable}, {user_variable} and PGDATABASE, or run {sets}, which sets the password")
    return unavailable(f"{found}; start the server (the sandbox's: make up), or check PGHOST, PGPORT, PGSSLMODE and PGSSLROOTCERT")

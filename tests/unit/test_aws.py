"""What boto3 is asked for, and what it may answer."""

import asyncio
import os
import threading
from types import SimpleNamespace
from unittest import mock

import botocore.exceptions
import pytest
from botocore.credentials import ReadOnlyCredentials

from loader import aws
from loader.aws import Identity
from loader.errors import SqsError

CREDENTIALS = ReadOnlyCredentials("AKIDEXAMPLE", "secret", None)
KEYS = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
HOSTS = {
    "sqs.ap-southeast-2.amazonaws.com": "ap-southeast-2",
    "sqs.cn-north-1.amazonaws.com.cn": "cn-north-1",
    "sqs.us-gov-west-1.amazonaws.com": "us-gov-west-1",
    "sqs.us-iso-east-1.c2s.ic.gov": "us-iso-east-1",
    "sqs-fips.us-east-2.amazonaws.com": "us-east-2",
    "sqs.eu-west-3.api.aws": "eu-west-3",
    "sqs-fips.us-west-1.api.aws": "us-west-1",
    "sqs.cn-northwest-1.api.amazonwebservices.com.cn": "cn-northwest-1",
    "vpce-0123-abc.sqs.eu-central-1.vpce.amazonaws.com": "eu-central-1",
    "vpce-0123-abc-eu-central-1a.sqs.eu-central-1.vpce.amazonaws.com": "eu-central-1",
    "eu-west-1.queue.amazonaws.com": "eu-west-1",
    "SQS.EU-WEST-1.amazonaws.com": "eu-west-1",
    "127.0.0.1:4566": None,
    "[::1]:4566": None,
    "login-queue.example.com": None,
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(("host", "region"), HOSTS.items())
def test_the_queues_url_names_the_region_and_a_special_endpoint(monkeypatch: pytest.MonkeyPatch, host: str, region: str | None) -> None:
    """And wins over AWS_DEFAULT_REGION, but not over an endpoint that is set."""
    url = f"https://{host}/111122223333/login-queue"
    assert aws.region_in(url) == region
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = aws.sqs_client(url, None, 1, 1).meta
    assert found.region_name == (region or "us-east-1")
    is_endpoint = region and ".queue." not in host
    assert found.endpoint_url == f"https://{host.lower() if is_endpoint else f'sqs.{found.region_name}.amazonaws.com'}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:4566")
    assert aws.sqs_client(url, None, 1, 1).meta.endpoint_url == "http://127.0.0.1:4566"


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"SQS_QUEUE_URL": "http://127.0.0.1/1/q"}, ["AWS_DEFAULT_REGION", *KEYS]),
        ({"SQS_QUEUE_URL": "http://127.0.0.1/1/q", "AWS_REGION": "eu-west-1"}, KEYS),
        ({"SQS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q"}, KEYS),
        ({"AWS_DEFAULT_REGION": "eu-west-1"} | dict.fromkeys(KEYS, "made-up"), []),
    ],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], missing: list[str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert aws.missing() == missing


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (botocore.exceptions.CredentialRetrievalError(provider="a role", error_msg="a-secret"), "CredentialRetrievalError"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="https://sts"), "EndpointConnectionError"),
        (botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "a-secret"}}, "AssumeRole"), "AccessDenied"),
        (ValueError("a-secret"), "ValueError"),
        (KeyError("a-secret"), "KeyError"),
    ],
    ids=["no retrieval", "STS is unreachable", "STS refuses", "no JSON", "no key"],
)
async def test_credentials_that_cannot_be_fetched_are_named_by_the_kind_of_error_alone(error: Exception, said: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SqsError) as caught:
        await Identity(fail).credentials()
    assert str(caught.value) == f"NoCredentials: AWS credentials cannot be fetched ({said})"


async def test_however_many_calls_wait_there_is_one_fetch_and_they_are_looked_at_anew_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = mock.Mock(return_value=CREDENTIALS)
    identity = Identity(lambda: SimpleNamespace(get_frozen_credentials=fetch))
    assert await asyncio.gather(*(identity.credentials() for _ in range(20))) == [CREDENTIALS] * 20
    assert fetch.call_count == 1
    monkeypatch.setattr(aws, "CREDENTIALS_CHECK_SECONDS", 0.0)
    identity.expired()
    for _ in range(2):
        await identity.credentials()
    assert fetch.call_count == 3


async def test_a_hung_fetch_delays_only_those_who_wait_for_it() -> None:
    hung = threading.Event()
    identity = Identity(lambda: SimpleNamespace(get_frozen_credentials=lambda: hung.wait(30) and CREDENTIALS))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await identity.credentials()
    hung.set()
    assert await identity.credentials() == CREDENTIALS

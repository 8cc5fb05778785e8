"""A request is signed as botocore signs it, byte for byte."""

import datetime as dt
from unittest import mock

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from loader.client import Endpoint, signed

NOW = dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
ENDPOINTS = {
    "http://127.0.0.1:4566/": "127.0.0.1:4566",
    "https://sqs.eu-central-1.amazonaws.com": "sqs.eu-central-1.amazonaws.com",
    "https://sqs.eu-central-1.amazonaws.com:443/": "sqs.eu-central-1.amazonaws.com",
    "http://SQS.Example:80": "sqs.example",
    "http://SQS.Example:443": "sqs.example:443",
    "https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com:8443/": "vpce-1.sqs.eu-central-1.vpce.amazonaws.com:8443",
    "http://[::1]:4566": "[::1]:4566",
    "https://[2001:db8::1]": "[2001:db8::1]",
}


def headers_of(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    return request_line, dict(line.split(":", 1) for line in lines), body


def assert_signed_as_botocore_does(url: str, token: str | None, body: bytes, now: dt.datetime) -> None:
    endpoint = Endpoint.parse(url, "eu-central-1")
    request_line, headers, sent = headers_of(
        signed(endpoint, ReadOnlyCredentials("AKIDEXAMPLE", "secret/+=", token), "ReceiveMessage", body, now.timestamp())
    )
    wanted = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ReceiveMessage"}
    expected = AWSRequest("POST", url, headers=wanted, data=body)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now):
        SigV4Auth(Credentials("AKIDEXAMPLE", "secret/+=", token), "sqs", "eu-central-1").add_auth(expected)
    assert headers.pop("host") == ENDPOINTS[url]
    assert headers.pop("content-length") == str(len(body))
    assert headers.pop("accept-encoding") == "identity"
    assert headers == {name.lower(): value for name, value in expected.headers.items()}
    assert sent == body
    assert request_line.startswith("POST /")


@pytest.mark.parametrize("token", [None, "a-session-token/+="])
@pytest.mark.parametrize("url", ENDPOINTS)
def test_a_request_to_any_endpoint_is_signed_as_botocore_signs_it(url: str, token: str | None) -> None:
    assert_signed_as_botocore_does(url, token, b"{}", NOW)


@given(st.binary(), st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2099, 1, 1)))  # noqa: DTZ001  # strategies take naive bounds
def test_any_body_at_any_time_is_signed_as_botocore_signs_it(body: bytes, at: dt.datetime) -> None:
    assert_signed_as_botocore_does("http://127.0.0.1:4566/", None, body, at.replace(tzinfo=dt.UTC))

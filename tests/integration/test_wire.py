"""The calls made by hand are the ones that boto3 makes, and get the answers that boto3 gets."""

import asyncio
import gzip
import os
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme

from benchmarks.stub import Stub
from loader import sqs
from loader.errors import LoaderError, SqsError
from loader.settings import LoaderSettings
from tests.integration.conftest import Closing, scripted
from tests.support import Queue

URL = "http://127.0.0.1:1/000000000000/login-queue"
RECEIVE = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "MessageSystemAttributeNames": ["SentTimestamp"]}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of its own, and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "REQUESTS_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "made-up"), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")


def calling(monkeypatch: pytest.MonkeyPatch, endpoint: str, **settings: Any) -> Any:
    """What calls SQS at *endpoint*, by hand or through boto3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return sqs.connect(LoaderSettings(sqs_queue_url=URL, pghost="unused", loader_timeout_seconds=2, **settings)).client


def call(caller: Any, *actions: str, between: Callable[[], object] = lambda: None, **parameters: Any) -> list[Any]:
    """The answers to these *actions*, one after the other over the same connections, or the codes of the errors that they are."""

    async def work() -> list[Any]:
        answers: list[Any] = []
        for number, action in enumerate(actions):
            if number:
                between()
            try:
                answers.append(await caller.call(action, {"QueueUrl": URL} | parameters))
            except SqsError as error:
                answers.append(error.code)
        for connection in getattr(caller, "_idle", ()):
            connection.transport.abort()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next turn
        return answers

    return asyncio.run(work())


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_call_is_answered_as_boto3_is(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> None:
    queue.send("one", '{"zoë": "🦊"}')
    seen, kinds, url = list[Any](), set[type](), {"QueueUrl": queue.url}
    for client in ("own", "boto3"):

        def ask(action: str, **parameters: Any) -> Any:
            caller = calling(monkeypatch, queue.emulator.endpoint_url, loader_sqs_client=client)  # noqa: B023  # called here
            kinds.add(type(caller))
            (answer,) = call(caller, action, **url | parameters)
            if isinstance(answer, dict):
                answer.pop("ResponseMetadata", None)
            return answer

        messages = sorted(ask("ReceiveMessage", **RECEIVE)["Messages"], key=lambda message: str(message["Body"]))
        handles = [message.pop("ReceiptHandle") for message in messages]  # new with each receive
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate([*handles, "invented"])]
        answers = [
            messages,
            ask("ChangeMessageVisibilityBatch", Entries=[entry | {"VisibilityTimeout": 60} for entry in entries]),
            ask("GetQueueAttributes", AttributeNames=["VisibilityTimeout", "ApproximateNumberOfMessagesNotVisible"]),
            ask("ReceiveMessage", **RECEIVE),
            ask("ChangeMessageVisibilityBatch", Entries=[entry | {"VisibilityTimeout": 0} for entry in entries]),
            ask("DeleteMessageBatch", Entries=entries[-1:]),
        ]
        errors = [
            ask("GetQueueAttributes", QueueUrl=URL + "-not", AttributeNames=["All"]),
            ask("ReceiveMessage", QueueUrl=URL + "-not"),
            ask("DeleteMessageBatch", Entries=entries[:1] * 2),
            ask("DeleteMessageBatch", Entries=[]),
        ]
        assert errors == ["QueueDoesNotExist", "QueueDoesNotExist", "BatchEntryIdsNotDistinct", "EmptyBatchRequest"]
        seen.append(answers)
    assert len(kinds) == 2
    assert seen[0] == seen[1]
    assert seen[0][0][1]["Body"] == '{"zoë": "🦊"}'


# ── what servers and networks do to answers ──────────────────────────────────────────────────────────────────────────


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "")).encode() + body


def skewed(date: str) -> bytes:
    return http(b'{"__type": "InvalidSignatureException"}', "403 Forbidden", f"Date: {date}")


GOOD, ANSWER = http(b'{"good": true}'), {"good": True}
IDLE = http(b"", "408 Request Timeout", "Connection: close")
EXPIRED = http(b'{"__type": "com.amazon.coral.service#ExpiredTokenException"}', "403 Forbidden")
NO_OBJECTS = (b"null", b"[]", b"7", b'"text"', b"<html>", b"{", b"[" * 100_000, b"\xff")
NO_ERRORS = (b"null", b"[]", b'{"__type": null}', b"<html>")
NO_DATES = ("yesterday", "Thu, 99 Foo 20266 00:00:00 GMT", "")
# By name, what a server answers to one request after the other, and what comes of the calls.
ANSWERS: dict[str, tuple[list[bytes], list[Any]]] = {
    "in chunks": ([b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"goo\r\n9\r\nd": true}\r\n0\r\n\r\n'], [ANSWER] * 2),
    "in gzip": ([http(gzip.compress(b'{"good": true}'), "200 OK", "Content-Encoding: gzip")], [ANSWER]),
    "over closed connections": ([Closing(GOOD)], [ANSWER] * 3),
    "over connections to be closed": ([http(b'{"good": true}', "200 OK", "Connection: close")], [ANSWER] * 3),
    "a 408 that crosses a request": ([GOOD, Closing(IDLE), GOOD], [ANSWER] * 2),
    "not HTTP": ([GOOD, b"\x15\x03\x01\x00\x02\x02", GOOD], [ANSWER] * 4),
    "an upgrade": ([GOOD, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", GOOD], [ANSWER] * 4),
    "a second answer behind it": ([GOOD, GOOD + GOOD[:20], GOOD], [ANSWER] * 4),
    "a whole second answer": ([GOOD, GOOD + http(b"{}"), GOOD], [ANSWER] * 4),
    "cut off in its head": ([Closing(GOOD[:20]), GOOD], ["Unreachable", ANSWER]),
    "cut off in its body": ([Closing(GOOD[:50]), GOOD], ["Unreachable", ANSWER]),
    **{f"no JSON object: {body[:9]!r}": ([http(body)], ["InvalidAnswer"]) for body in NO_OBJECTS},
    **{f"an error without a code: {body!r}": ([http(body, "503 Slow Down")], ["HTTP 503"]) for body in NO_ERRORS},
    "a clock that is wrong by its date": ([skewed(formatdate(0, usegmt=True)), GOOD], [ANSWER]),
    **{f"a clock that is wrong by {date!r}": ([skewed(date), GOOD], ["InvalidSignatureException"]) for date in NO_DATES},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_whatever_it_looks_like_and_spoils_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    answers, expected = ANSWERS[name]
    with scripted(*answers) as script:
        assert call(calling(monkeypatch, f"http://127.0.0.1:{script.port}"), *["ReceiveMessage"] * len(expected)) == expected


def test_a_408_in_the_buffer_of_an_idle_connection_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(GOOD) as script:
        # the loop does not turn between the calls, so what is sent then lies in the buffer
        idle = lambda: script.connections[0].sendall(IDLE)  # noqa: E731  # a word on what it is
        assert call(calling(monkeypatch, f"http://127.0.0.1:{script.port}"), *["ReceiveMessage"] * 2, between=idle) == [ANSWER] * 2


def test_an_endpoint_may_be_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(GOOD, family=socket.AF_INET6) as script:
        assert call(calling(monkeypatch, f"http://[::1]:{script.port}"), "ReceiveMessage") == [ANSWER]


def test_no_answer_is_unreachable_and_a_late_one_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    stub.control(round_trip=2.5)  # half a second more than the caller waits
    caller = calling(monkeypatch, f"http://127.0.0.1:{stub.port}")
    late, next_one = call(caller, "ReceiveMessage", "GetQueueAttributes", between=lambda: stub.control(round_trip=1))
    assert late == "Unreachable"
    assert "Attributes" in next_one


# ── who to ask, and as whom ──────────────────────────────────────────────────────────────────────────────────────────

BY_BOTO3 = [
    ("HTTP_PROXY", "http://127.0.0.1:9"),
    ("LOADER_SQS_CLIENT", "boto3"),
    ("endpoint", "http://127.0.0.1:1/base/"),
    ("endpoint", "http://somebody@127.0.0.1:1"),
]


@pytest.mark.parametrize("variables", [{}, *({name: value} for name, value in BY_BOTO3)], ids=str)
def test_boto3_makes_the_calls_where_it_must_or_shall_and_nobody_there_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", variables.get("HTTP_PROXY", ""))
    client = variables.get("LOADER_SQS_CLIENT", "own")
    caller = calling(monkeypatch, variables.get("endpoint", "http://127.0.0.1:1"), loader_sqs_client=client)
    assert (type(caller).__name__ == "BotoClient") == bool(variables)
    assert call(caller, "ReceiveMessage") == ["Unreachable"]


def test_credentials_that_expire_in_mid_flight_are_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = made-up\n")

    write("OLD")
    with scripted(GOOD, EXPIRED, GOOD) as script:
        caller = calling(monkeypatch, f"http://127.0.0.1:{script.port}")
        assert call(caller, *["ReceiveMessage"] * 2, between=lambda: write("NEW")) == [ANSWER] * 2
    assert [b"Credential=OLD/" in request for request in script.requests] == [True, True, False]
    assert b"Credential=NEW/" in script.requests[2]


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_tls_is_verified_by_the_bundle_that_boto3_would_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    authority, context, bundle = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path / "ca.pem"
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(bundle))
    with scripted(GOOD, context=context) as script:
        assert call(calling(monkeypatch, f"https://localhost:{script.port}"), "ReceiveMessage") == ["Unreachable"]
        monkeypatch.setenv(variable, str(bundle))
        assert call(calling(monkeypatch, f"https://localhost:{script.port}"), "ReceiveMessage") == [ANSWER]
        assert call(calling(monkeypatch, f"https://127.0.0.1:{script.port}"), "ReceiveMessage") == ["Unreachable"]
    monkeypatch.setenv(variable, str(tmp_path / "missing.pem"))
    with pytest.raises(LoaderError, match=r"AWS_CA_BUNDLE: cannot read .*missing\.pem"):
        calling(monkeypatch, "https://localhost:1")


def test_certificates_are_checked_as_strictly_as_by_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.13 the standard library's default is stricter, and refuses authorities that boto3 takes."""
    context = calling(monkeypatch, "https://localhost:1")._tls  # noqa: SLF001  # there is nobody to ask who would show it on this version
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname

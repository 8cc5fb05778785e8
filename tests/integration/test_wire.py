"""The calls made by hand are the ones that boto3 makes, and get the answers that boto3 gets."""

import asyncio
import contextlib
import datetime as dt
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.auth
import botocore.exceptions
import pytest
import trustme
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials

from benchmarks.stub import Stub
from loader import wire
from loader.errors import LoaderError
from loader.wire import BotoCaller, SignedCaller, SqsError
from tests.support import Queue

URL = "http://127.0.0.1:1/000000000000/login-queue"
RECEIVE = {"QueueUrl": URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "MessageSystemAttributeNames": ["SentTimestamp"]}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of its own, and nothing of this machine's."""
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")


@contextlib.contextmanager
def calling(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> Iterator[wire.Caller]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    yield wire.connect(URL, "us-east-1", 2, 1)


def call(caller: wire.Caller, action: str, **parameters: Any) -> dict[str, Any]:
    """One call, on an event loop of its own, so with connections of its own."""

    async def work() -> dict[str, Any]:
        try:
            return await caller.call(action, {"QueueUrl": URL} | parameters)
        finally:
            if isinstance(caller, SignedCaller):  # its connections belong to this loop
                await caller.close()

    return asyncio.run(work())


# ── signing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("token", [None, "a-session-token"])
@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:4566/", "https://sqs.eu-central-1.amazonaws.com/", "https://vpce-1.example:8443/base/"]
)
def test_a_request_is_signed_as_botocore_signs_it(monkeypatch: pytest.MonkeyPatch, endpoint: str, token: str | None) -> None:
    body = json.dumps(RECEIVE).encode()
    request = wire.signed(endpoint, "eu-central-1", ReadOnlyCredentials("AKIDEXAMPLE", "secret", token), "ReceiveMessage", body)
    head, _, sent_body = request.partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)

    now = dt.datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now)
    unsigned = {name: headers[name] for name in ("Content-Type", "X-Amz-Target")}
    expected = AWSRequest("POST", endpoint, headers=unsigned, data=body)
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret", token), "sqs", "eu-central-1").add_auth(expected)

    assert headers.pop("Host") == endpoint.split("/")[2]
    assert headers.pop("Content-Length") == str(len(body))
    assert headers == dict(expected.headers.items())
    assert sent_body == body
    assert request_line == f"POST {'/base/' if 'base' in endpoint else '/'} HTTP/1.1"


def test_one_signature_serves_the_same_receive_for_a_minute() -> None:
    caller = SignedCaller(boto3.Session(), "us-east-1", "http://127.0.0.1:1", 1)

    async def requests() -> list[bytes]:
        return [await caller.request("ReceiveMessage", b"{}") for _ in range(2)] + [await caller.request("ReceiveMessage", b"{ }")]

    first, second, other = asyncio.run(requests())
    assert first is second
    assert other != first


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand_and_by_boto3(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> tuple[SignedCaller, BotoCaller]:
    with calling(monkeypatch, queue.emulator.endpoint_url) as caller:
        assert isinstance(caller, SignedCaller)
        return caller, BotoCaller(queue.client, 1)


def test_every_call_is_answered_as_boto3_is(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> None:
    callers = by_hand_and_by_boto3(monkeypatch, queue)
    queue.send("one", '{"zoë": "🦊"}')
    url = {"QueueUrl": queue.url}
    seen: list[list[Any]] = []
    for caller in callers:
        answers = [call(caller, "ReceiveMessage", **RECEIVE | url)]
        messages = sorted(answers[0]["Messages"], key=lambda message: str(message["Body"]))
        handles = [message.pop("ReceiptHandle") for message in messages]  # new with each receive
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate([*handles, "invented"])]
        held = [entry | {"VisibilityTimeout": 60} for entry in entries]
        let_go = [entry | {"VisibilityTimeout": 0} for entry in entries]
        answers.append(call(caller, "ChangeMessageVisibilityBatch", Entries=held, **url))
        answers.append(
            call(caller, "GetQueueAttributes", AttributeNames=["VisibilityTimeout", "ApproximateNumberOfMessagesNotVisible"], **url)
        )
        answers.append(call(caller, "ReceiveMessage", **RECEIVE | url))
        answers.append(call(caller, "ChangeMessageVisibilityBatch", Entries=let_go, **url))
        answers.append(call(caller, "DeleteMessageBatch", Entries=entries[-1:], **url))
        for answer in answers:
            answer.pop("ResponseMetadata", None)
        answers[0]["Messages"] = messages
        seen.append(answers)
    assert seen[0] == seen[1]
    assert seen[0][0]["Messages"][1]["Body"] == '{"zoë": "🦊"}'


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("GetQueueAttributes", {"QueueUrl": URL + "-not", "AttributeNames": ["All"]}, "QueueDoesNotExist"),
        ("ReceiveMessage", {"QueueUrl": URL + "-not"}, "QueueDoesNotExist"),
        ("DeleteMessageBatch", {"Entries": [{"Id": "a", "ReceiptHandle": "x"}] * 2}, "BatchEntryIdsNotDistinct"),
        ("DeleteMessageBatch", {"Entries": []}, "EmptyBatchRequest"),
    ],
)
def test_every_error_is_read_as_boto3_reads_it(
    monkeypatch: pytest.MonkeyPatch, queue: Queue, action: str, parameters: dict[str, Any], code: str
) -> None:
    found = []
    for caller in by_hand_and_by_boto3(monkeypatch, queue):
        with pytest.raises(SqsError) as caught:
            call(caller, action, **{"QueueUrl": queue.url} | parameters)
        found.append(caught.value.code)
    assert found == [code, code]


@pytest.mark.parametrize("behaviour", [{"chunked": True}, {"close_every": 1}, {"chunked": True, "close_every": 2}], ids=str)
def test_answers_in_chunks_and_over_closed_connections_are_read(
    monkeypatch: pytest.MonkeyPatch, stub: Stub, behaviour: dict[str, Any]
) -> None:
    stub.control(**behaviour)
    stub.preload(200)

    async def receive_all(caller: wire.Caller) -> set[str]:
        answers = [await caller.call("ReceiveMessage", RECEIVE) for _ in range(20)]
        await caller.close()
        return {message["MessageId"] for answer in answers for message in answer["Messages"]}

    with calling(monkeypatch, f"http://127.0.0.1:{stub.port}") as caller:
        assert len(asyncio.run(receive_all(caller))) == 200
    assert "close_every" not in behaviour or stub.stats()["connections closed"] >= 10


def test_nobody_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with calling(monkeypatch, "http://127.0.0.1:1") as caller, pytest.raises(SqsError, match=r"Unreachable: 127\.0\.0\.1:1: "):
        call(caller, "ReceiveMessage")


def test_no_answer_is_unreachable_and_a_late_one_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    async def twice(caller: wire.Caller) -> None:
        stub.control(round_trip=2.5)  # half a second more than the caller waits
        with pytest.raises(SqsError, match="Unreachable: no answer"):
            await caller.call("ReceiveMessage", RECEIVE)
        stub.control(round_trip=1)
        assert "Attributes" in await caller.call("GetQueueAttributes", {"QueueUrl": URL})
        await caller.close()

    with calling(monkeypatch, f"http://127.0.0.1:{stub.port}") as caller:
        asyncio.run(twice(caller))


# ── who to ask, and as whom ──────────────────────────────────────────────────────────────────────────────────────────


def test_behind_a_proxy_boto3_makes_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with calling(monkeypatch, "http://sqs.example:80") as caller:
        assert isinstance(caller, BotoCaller)
        with pytest.raises(SqsError, match="Unreachable"):
            call(caller, "ReceiveMessage")


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.ap-southeast-2.amazonaws.com/1/q", "ap-southeast-2"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("http://127.0.0.1:4566/1/q", None),
    ],
)
def test_the_queue_url_names_the_region(url: str, region: str | None) -> None:
    assert wire.region_in(url) == region


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every call, but refuses the key OLD as expired."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        expired = "Credential=OLD/" in self.headers["Authorization"]
        answer: dict[str, Any] = (
            {"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "expired"} if expired else {"Attributes": {}}
        )
        content = json.dumps(answer).encode()
        self.send_response(403 if expired else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_expired_credentials_are_fetched_again() -> None:
    keys = iter(["OLD", "NEW"])
    credentials = SimpleNamespace(get_frozen_credentials=lambda: ReadOnlyCredentials(next(keys), "secret", None))
    session = SimpleNamespace(get_credentials=lambda: credentials)
    with answering() as port:
        caller = SignedCaller(session, "us-east-1", f"http://127.0.0.1:{port}", 2)  # type: ignore[arg-type]  # a session with such credentials
        assert call(caller, "GetQueueAttributes") == {"Attributes": {}}


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.CredentialRetrievalError(provider="a role", error_msg="no route"),
        botocore.exceptions.ClientError({"Error": {"Code": "InternalFailure", "Message": "no route"}}, "AssumeRoleWithWebIdentity"),
    ],
    ids=["not reached", "refused"],
)
def test_credentials_that_cannot_be_fetched_are_tried_again_later(error: Exception) -> None:
    def fail() -> ReadOnlyCredentials:
        raise error

    credentials = SimpleNamespace(get_frozen_credentials=fail)
    session = SimpleNamespace(get_credentials=lambda: credentials)
    caller = SignedCaller(session, "us-east-1", "http://127.0.0.1:1", 2)  # type: ignore[arg-type]  # a session with such credentials
    for _ in range(2):
        with pytest.raises(SqsError, match=r"no credentials: .*no route"):
            call(caller, "GetQueueAttributes")


def test_tls_is_verified_by_the_bundle_that_boto3_would_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with answering(server_context) as port:
        with calling(monkeypatch, f"https://localhost:{port}") as caller, pytest.raises(SqsError, match="certificate verify failed"):
            call(caller, "GetQueueAttributes")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        with calling(monkeypatch, f"https://localhost:{port}") as caller:
            assert call(caller, "GetQueueAttributes") == {"Attributes": {}}
        with calling(monkeypatch, f"https://127.0.0.1:{port}") as caller, pytest.raises(SqsError, match="certificate verify failed"):
            call(caller, "GetQueueAttributes")


def test_an_unreadable_bundle_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(LoaderError, match="AWS_CA_BUNDLE"), calling(monkeypatch, "https://localhost:1"):
        pass

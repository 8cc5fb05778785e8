from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sandbox.errors import SandboxError
from sandbox.seed import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, Line, batches, seed, send
from tests.support import Queue

SECRET = "192.0.2.77"


def never(_seconds: float) -> None:
    """Waits for nothing."""


class FakeSqs:
    """Answers SendMessageBatch by *answers*: per body, how often it fails, and whether the sender is at fault."""

    def __init__(self, failures: dict[str, int], *, sender_fault: bool = False, whole_call: bool = False) -> None:
        self.failures = failures
        self.sender_fault = sender_fault
        self.whole_call = whole_call
        self.taken: list[str] = []

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803  boto3's names
        assert QueueUrl
        failing = [entry for entry in Entries if self.failures.get(entry["MessageBody"], 0)]
        if failing and self.whole_call:
            raise ClientError({"Error": {"Code": "InvalidMessageContents", "Message": SECRET}}, "SendMessageBatch")
        for entry in failing:
            self.failures[entry["MessageBody"]] -= 1
        self.taken += [entry["MessageBody"] for entry in Entries if entry not in failing]
        return {"Failed": [{"Id": entry["Id"], "SenderFault": self.sender_fault, "Code": "x"} for entry in failing]}


def lines(*bodies: str) -> list[Line]:
    return [Line(number, body) for number, body in enumerate(bodies, start=1)]


@given(st.lists(st.integers(min_value=1, max_value=MAX_BATCH_BYTES), max_size=60))
def test_batches_keep_the_order_and_fit_the_quotas(sizes: list[int]) -> None:
    sent = [Line(number, "x" * size) for number, size in enumerate(sizes, start=1)]
    made = list(batches(sent))
    assert [line for batch in made for line in batch] == sent
    assert all(len(batch) <= MAX_BATCH_MESSAGES for batch in made)
    assert all(sum(len(line.body) for line in batch) <= MAX_BATCH_BYTES for batch in made)


def test_a_batch_is_measured_in_bytes_not_letters() -> None:
    assert [len(batch) for batch in batches(lines("é" * (MAX_BATCH_BYTES // 4), "é" * (MAX_BATCH_BYTES // 4), "é"))] == [2, 1]


def test_a_line_that_fails_for_a_while_is_sent_again() -> None:
    queue = FakeSqs({"b": 2})
    assert send(queue, "url", lines("a", "b", "c"), pause=never) == []  # type: ignore[arg-type]
    assert sorted(queue.taken) == ["a", "b", "c"]


def test_a_line_that_keeps_failing_is_reported_by_its_number() -> None:
    queue = FakeSqs({"b": 99})
    assert send(queue, "url", lines("a", "b", "c"), pause=never) == [2]  # type: ignore[arg-type]
    assert queue.taken == ["a", "c"]


def test_a_line_that_the_queue_will_never_take_is_not_sent_again() -> None:
    queue = FakeSqs({"b": 99}, sender_fault=True)
    assert send(queue, "url", lines("a", "b"), pause=never) == [2]  # type: ignore[arg-type]
    assert queue.failures["b"] == 98


def test_a_line_that_fails_its_whole_batch_leaves_the_others_sent() -> None:
    queue = FakeSqs({"b": 99}, whole_call=True)
    assert send(queue, "url", lines("a", "b", "c"), pause=never) == [2]  # type: ignore[arg-type]
    assert queue.taken == ["a", "c"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda _path: None, "No such file"),
        (lambda path: path.write_bytes(b"{}\n" + b"\xff\xfe\x00" + SECRET.encode()), "line 2 is not UTF-8"),
    ],
    ids=["a folder", "a missing file", "a binary file"],
)
def test_a_file_that_is_no_text_is_named_in_one_line_and_sends_nothing(make: Any, words: str, tmp_path: Path, queue: Queue) -> None:
    path = tmp_path / "events"
    make(path)
    with pytest.raises(SandboxError) as caught:
        seed(path, queue.url, Console(quiet=True))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert queue.depth() == 0


def test_each_line_is_sent_verbatim_and_only_a_newline_parts_lines(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bodies = ["  {} ", "a\r", "b\u2028c\u0085d", "é", '{"a": "\\u0000"}', "last, without a newline"]
    path = tmp_path / "events"
    path.write_bytes("\n".join([*bodies[:2], "", *bodies[2:]]).encode())
    seeded = seed(path, queue.url, Console(quiet=True))
    assert (seeded.sent, seeded.empty, seeded.refused) == (6, 1, ())
    received = queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == bodies


def test_a_line_that_sqs_refuses_is_reported_and_the_others_arrive(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "events"
    path.write_text("\n".join(["first", "a control character \x01", "x" * (MAX_BATCH_BYTES + 1), "last"]))
    seeded = seed(path, queue.url, Console(quiet=True))
    assert (seeded.sent, seeded.refused) == (2, (2, 3))
    assert queue.depth() == 2

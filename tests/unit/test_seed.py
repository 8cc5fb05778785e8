import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SandboxError
from sandbox.sample_events import sample_events
from sandbox.seed import Line, Seeded, batches, sample, seed
from sandbox.sqs import MAX_BYTES, MAX_ENTRIES
from tests.support import Queue

SECRET = "192.0.2.77"


def lines(*bodies: str) -> list[Line]:
    return [Line(number, body) for number, body in enumerate(bodies, start=1)]


@pytest.fixture
def of_the_queue(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a program that uses this test's queue."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@given(st.lists(st.integers(min_value=1, max_value=MAX_BYTES), max_size=60))
def test_batches_keep_the_order_and_fit_the_quotas(sizes: list[int]) -> None:
    sent = [Line(number, "x" * size) for number, size in enumerate(sizes, start=1)]
    made = list(batches(sent))
    assert [line for batch in made for line in batch] == sent
    assert all(len(batch) <= MAX_ENTRIES for batch in made)
    assert all(sum(len(line.body) for line in batch) <= MAX_BYTES for batch in made)


def test_a_batch_is_measured_in_bytes_not_letters() -> None:
    assert [len(batch) for batch in batches(lines("é" * (MAX_BYTES // 4), "é" * (MAX_BYTES // 4), "é"))] == [2, 1]


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
        seed(path, queue.url)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert queue.depth() == 0


@pytest.mark.usefixtures("of_the_queue")
def test_each_line_is_sent_verbatim_and_only_a_newline_parts_lines(tmp_path: Path, queue: Queue) -> None:
    bodies = ["  {} ", "a\r", "b\u2028c\u0085d", "é", '{"a": "\\u0000"}', "last, without a newline"]
    path = tmp_path / "events"
    path.write_bytes("\n".join([*bodies[:2], "", *bodies[2:]]).encode())
    seeded = seed(path, queue.url)
    assert (seeded.sent, seeded.empty, seeded.refused) == (6, 1, ())
    received = queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == bodies


@pytest.mark.usefixtures("of_the_queue")
def test_a_line_that_sqs_refuses_is_reported_and_the_others_arrive(tmp_path: Path, queue: Queue) -> None:
    path = tmp_path / "events"
    path.write_text("\n".join(["first", "a control character \x01", "x" * (MAX_BYTES + 1), "last"]))
    seeded = seed(path, queue.url)
    assert (seeded.sent, seeded.refused) == (2, (2, 3))
    assert queue.depth() == 2


@pytest.mark.parametrize(("endpoint", "dated"), [("http://127.0.0.1:4566", True), ("", False), ("https://sqs.example.com", False)])
def test_only_on_the_sandboxs_queue_does_the_sample_say_that_it_was_sent_earlier(
    endpoint: str, dated: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert {line.sent_at is not None for line in sample()} == {dated}


@pytest.mark.usefixtures("of_the_queue")
def test_the_sample_comes_from_the_queue_as_of_four_weeks(queue: Queue) -> None:
    assert seed(None, queue.url) == Seeded(1000, 0, ())
    client = queue.client
    received = [
        message
        for _ in range(100)
        for message in client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, AttributeNames=["SentTimestamp"])["Messages"]
    ]
    assert [message["Body"] for message in received] == list(sample_events())
    sent_at = [dt.datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, dt.UTC) for message in received]
    assert sent_at == sorted(sent_at)
    assert len({at.date() for at in sent_at}) >= 28

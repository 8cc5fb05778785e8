"""Messages as SQS describes them, and what is made of its answers."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import SqsError
from loader.landing import storable_json
from loader.sqs import Message, Queue

GOOD = {
    "MessageId": "m1",
    "ReceiptHandle": "handle",
    "Body": "{}",
    "MD5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
    "Attributes": {"SentTimestamp": "1790000000123", "ApproximateReceiveCount": "3", "SenderId": "AIDAEXAMPLE"},
}


class Answers:
    """A caller that gives one answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, Any]] = []

    async def call(self, _action: str, parameters: Mapping[str, Any], _wait_seconds: int = 0, /) -> dict[str, Any]:
        self.asked.append(parameters)
        return json.loads(json.dumps(self.answer))  # type: ignore[no-any-return]  # a dict again

    async def close(self) -> None:
        pass


def queue(caller: Answers, visibility_seconds: int = 60) -> Queue:
    return Queue("http://unused", caller, visibility_seconds)  # type: ignore[arg-type]  # it answers as a client does


def receive(*messages: Any) -> tuple[list[Message], list[str]]:
    return asyncio.run(queue(Answers({"Messages": list(messages)})).receive(20))


def test_a_message_is_read_with_everything_that_is_not_in_its_body() -> None:
    ((message,), damaged) = receive(GOOD | {"MessageAttributes": {"a": {"DataType": "String", "StringValue": "x"}}})
    assert (message.message_id, message.sent_ms, message.receives, message.receipt_handle) == ("m1", 1_790_000_000_123, 3, "handle")
    assert json.loads(message.attributes) == {
        "ApproximateReceiveCount": 3,
        "SenderId": "AIDAEXAMPLE",
        "MessageAttributes": {"a": {"DataType": "String", "StringValue": "x"}},
    }
    assert not damaged


@pytest.mark.parametrize(
    "change",
    [
        {"Attributes": {}},
        {"Attributes": None},
        {"Attributes": {"SentTimestamp": "soon"}},
        {"Attributes": {"SentTimestamp": "99999999999999999999"}},
        {"MessageId": "a\0b"},
        {"MessageId": None},
        {"Body": None},
        {"Body": 7},
        {"MD5OfBody": "0" * 32},
    ],
    ids=str,
)
def test_one_message_that_is_damaged_is_named_and_the_other_nine_are_taken(change: dict[str, Any]) -> None:
    messages, damaged = receive(*[GOOD] * 5, GOOD | change, *[GOOD] * 4)
    assert len(messages) == 9
    assert len(damaged) == 1
    assert "192.0.2" not in damaged[0]


@given(st.dictionaries(st.text(st.characters(exclude_categories=[])), st.text(st.characters(exclude_categories=[]))))
def test_attributes_of_any_characters_are_json_that_postgresql_can_hold(attributes: dict[str, str]) -> None:
    ((message,), _) = receive(GOOD | {"Attributes": attributes | GOOD["Attributes"], "MessageAttributes": attributes})  # type: ignore[operator]  # a dict
    stored = storable_json(message.attributes)
    stored.encode()
    assert r"\u0000" not in stored
    assert isinstance(json.loads(stored), dict)


def test_the_visibility_time_out_goes_with_every_receive() -> None:
    caller = Answers({})
    asyncio.run(queue(caller, 45).receive(20))
    assert caller.asked[0]["VisibilityTimeout"] == 45


@pytest.mark.parametrize("messages", [{"a": 1}, "text", 7])
def test_an_answer_whose_messages_are_no_list_is_an_error(messages: Any) -> None:
    with pytest.raises(SqsError, match="InvalidAnswer"):
        asyncio.run(queue(Answers({"Messages": messages}), 60).receive(20))


def test_a_delete_that_sqs_does_not_confirm_is_none() -> None:
    answer = {"Successful": [{"Id": "0"}], "Failed": [{"Id": "1", "Code": "InternalError"}]}
    assert asyncio.run(queue(Answers(answer), 60).delete(["a", "b", "c"])) == {"b": "InternalError", "c": "NoAnswer"}


@pytest.mark.parametrize("answer", [{"Successful": [{}]}, {"Failed": [{"Id": "x"}]}, {"Successful": 7}, {"Failed": ["text"]}])
def test_an_answer_to_a_batch_without_ids_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(SqsError, match="InvalidAnswer"):
        asyncio.run(queue(Answers(answer), 60).delete(["a"]))

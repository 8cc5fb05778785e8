"""What the loader holds: received, and not deleted or given back yet."""

import sys
from collections.abc import Sequence

from loader.sqs import RECEIVE_MAX, Message


class Delivery:
    """The messages of one receive; others do not get them before *until*, and of landed ones only the handles are left."""

    def __init__(self, messages: Sequence[Message], until: float) -> None:
        """Up to ten messages, hidden until then."""
        self.messages, self.until = messages, until
        self.handles = [message.receipt_handle for message in messages]
        self.bytes = sum([sys.getsizeof(message.body) + sys.getsizeof(message.attributes) for message in messages])


class Held(set[Delivery]):
    """The deliveries that we hold: how many messages, and how many bytes of what has not landed."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        """Hold no more than that."""
        super().__init__()
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self.messages = self.bytes = 0
        self._delivery_bytes = 10_240  # what the next one may weigh: the heaviest lately

    def has_room(self, under_way: int) -> bool:
        """Whether one more may come beside those *under_way*. One always may, however heavy."""
        more, is_empty = under_way + 1, not (under_way or self)
        has_messages = self.messages + more * RECEIVE_MAX <= self._max_messages
        return is_empty or (has_messages and self.bytes + more * self._delivery_bytes <= self._max_bytes)

    def take(self, delivery: Delivery) -> None:
        """It was received."""
        self.add(delivery)
        self.messages += len(delivery.handles)
        self.bytes += delivery.bytes
        self._delivery_bytes = max(delivery.bytes, self._delivery_bytes * 99 // 100)

    def landed(self, delivery: Delivery) -> None:
        """Its bodies are not needed any more."""
        self.bytes -= delivery.bytes
        delivery.messages, delivery.bytes = (), 0

    def drop(self, delivery: Delivery) -> None:
        """It was deleted or given back."""
        if delivery in self:
            self.remove(delivery)
            self.messages -= len(delivery.handles)
            self.landed(delivery)

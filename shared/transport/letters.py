"""What is published in the place of a delivery that nobody here can use."""

from __future__ import annotations

from tunemesh.shared.transport.values import Delivery, Outgoing

REASON = 500
"""Characters of the reason, at most."""


def dead_letter(
    delivery: Delivery, exchange: str, reason: str, kind: str = "undecodable", most: int | None = None
) -> Outgoing:
    """The same message for those who look after what was put aside, with the reason and where it came from.

    Args:
        exchange: that takes such messages.
        kind: why, in a word: the type of the letter.
        most: bytes of the body that are kept; all of it where ``None``.
    """
    return Outgoing(
        exchange=exchange,
        key="",
        body=delivery.body[:most],
        message_id=delivery.message_id,
        type=kind,
        headers={"reason": reason[:REASON], "from-exchange": delivery.exchange, "from-key": delivery.key},
    )

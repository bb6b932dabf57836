"""What only the consumer of a step can know: a nonce that comes with the step, and goes back with its result.

It follows from a secret in the job's ledger, which no worker can read, and from the step's id. So a successor
knows it too, and the same step sent again has the same one: whoever had it before may still answer.
"""

from __future__ import annotations

import hmac

LENGTH = 32
"""Hexadecimal digits."""


def secret_of(seed: str, job: str, accepted: float) -> str:
    """The secret of a job that is accepted now.

    Args:
        seed: what the coordinator has drawn; without one there are no secrets, and no nonces.
    """
    return _keyed(seed, f"{job}@{accepted!r}")


def nonce_of(secret: str, step: str) -> str:
    """The nonce of a step of the job that has this secret."""
    return _keyed(secret, step)


def _keyed(key: str, text: str) -> str:
    return hmac.digest(key.encode(), text.encode(), "sha256").hex()[:LENGTH] if key else ""

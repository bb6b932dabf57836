"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.buckets import Bucket


def test_after_a_rest_many_may_come_at_once_and_then_the_rate_holds() -> None:
    bucket = Bucket(rate=2.0, most=3.0)
    assert [bucket.take(10.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.take(11.0) == 0.5
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert max(bucket.take(100.0) for _ in range(1000)) == 1.5
    assert bucket.take(102.0) == 0.0


@given(
    st.floats(0.1, 100.0),
    st.floats(1.0, 100.0),
    st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200),
)
def test_whatever_comes_when_no_more_pass_than_the_rate_allows(
    rate: float, most: float, pauses: list[float]
) -> None:
    bucket, now, passed = Bucket(rate, most), 0.0, 0
    for pause in pauses:
        now += pause
        passed += not bucket.take(now)
        assert passed <= most + rate * (now - pauses[0]) + 1e-6

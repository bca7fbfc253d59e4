"""Times as people write them."""

import pytest

from vllm_codesign.cli.instant import instant_ns
from vllm_codesign.model.errors import CodesignError

NOW_NS = 1_760_000_000_123_456_789


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW_NS - 90 * 10**9),
        ("2h", NOW_NS - 7_200 * 10**9),
        ("7d", NOW_NS - 604_800 * 10**9),
        ("2025-10-09T08:53:20", 1_760_000_000 * 10**9),
        ("2025-10-09T10:53:20.000001+02:00", 1_760_000_000 * 10**9 + 1_000),
        ("2025-10-09", 1_759_968_000 * 10**9),
    ],
)
def test_an_instant_or_how_long_ago(text: str, expected: int) -> None:
    assert instant_ns(text, NOW_NS) == expected


def test_anything_else_is_refused() -> None:
    with pytest.raises(CodesignError, match="'yesterday' is no time: want 30m"):
        instant_ns("yesterday", NOW_NS)

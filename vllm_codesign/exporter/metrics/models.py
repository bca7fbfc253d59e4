"""Names of models as an attribute: few, whatever clients send."""

from __future__ import annotations

MAX_MODELS = 64
"""With some two dozen phases that stays below the SDK's 2,000 series for each metric."""
OTHER = "other"
UNKNOWN = "unknown"


class Models:
    """The first `MAX_MODELS` names keep theirs, the rest are `other`.

    A name counts from its first request that was not rejected on: what a server does not serve
    takes nobody's place.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def name(self, asked: object, rejected: bool) -> str:
        """The attribute for a request that asked for this model."""
        if not isinstance(asked, str) or not asked:
            return UNKNOWN
        if asked not in self._known:
            if rejected or len(self._known) >= MAX_MODELS:
                return OTHER
            self._known.add(asked)
        return asked

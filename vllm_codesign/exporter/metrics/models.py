"""Names of models as an attribute: few, whatever clients send."""

from __future__ import annotations

MAX_MODELS = 64
"""With some two dozen phases that stays below the SDK's 2,000 series for each metric."""
OTHER = "other"
UNKNOWN = "unknown"


class Models:
    """The first `MAX_MODELS` names keep theirs, the rest are `other`.

    A name counts from the first request on that the server has served: any other may have asked
    for whatever its client liked, and takes nobody's place. vLLM looks whether it has the model
    before it renders a prompt (`_check_model`), so what an engine got was asked for by the name
    of a model that there is.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def name(self, asked: object, served: bool) -> str:
        """The attribute for a request that asked for this model; `served`: an engine had it, or
        it was answered in full."""
        if not isinstance(asked, str) or not asked:
            return UNKNOWN
        if asked not in self._known:
            if not served or len(self._known) >= MAX_MODELS:
                return OTHER
            self._known.add(asked)
        return asked

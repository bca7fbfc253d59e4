from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_codesign.recorder import active
from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create


@pytest.fixture
def ring_of(tmp_path: Path) -> Callable[[int], Ring]:
    """Makes a ring of so many records."""

    def make(records: int) -> Ring:
        return Ring(tmp_path / "x.ring", L.HEADER_BYTES + records * L.RECORD_BYTES)

    return make


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return create(tmp_path, 1, {"argv": ["vllm", "serve"]})


@pytest.fixture
def dormant() -> Iterator[None]:
    """This process has no ring, before and after."""
    active.deactivate()
    yield
    active.deactivate()

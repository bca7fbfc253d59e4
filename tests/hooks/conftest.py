import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_codesign.hooks import wrap
from vllm_codesign.recorder import active
from vllm_codesign.recorder.reader import Record, RingReader
from vllm_codesign.recorder.session import Session, create


class Recording:
    """This process records into a session of the test's own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        (path,) = session.rings()
        self.ring = RingReader(path)

    def take(self) -> list[Record]:
        """What was recorded since the last call."""
        return list(self.ring.read())

    def kinds(self) -> list[int]:
        return [record.kind for record in self.take()]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    active.deactivate()
    session = create(tmp_path, 1, {})
    active.activate(session, "process", 1 << 16)
    yield Recording(session)
    active.deactivate()


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production: what goes wrong in a hook is swallowed and counted."""
    monkeypatch.setattr(wrap, "_strict", False)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes an importable module `codesign_fake_<name>`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> None:
        (tmp_path / f"codesign_fake_{name}.py").write_text(source)

    yield write
    for name in [name for name in sys.modules if name.startswith("codesign_fake_")]:
        del sys.modules[name]

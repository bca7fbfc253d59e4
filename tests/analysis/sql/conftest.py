"""One ClickHouse for all tests of this folder; chdb allows one session a process."""

from collections.abc import Iterator

import pytest

from tests.support.clickhouse import Chdb


@pytest.fixture(scope="package")
def chdb() -> Iterator[Chdb]:
    pytest.importorskip("chdb.session", reason="needs chdb, ClickHouse in a wheel")
    session = Chdb()
    yield session
    session.close()

"""A receiver of traces by either protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exporter.sending import RECEIVERS, AnyReceiver


@pytest.fixture(params=RECEIVERS, ids=lambda kind: kind.protocol)
def receiver(request: pytest.FixtureRequest) -> Iterator[AnyReceiver]:
    with request.param() as running:
        yield running

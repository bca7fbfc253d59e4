import asyncio
import threading
from collections.abc import Iterator

import pytest
from aiohttp import web

from tests.support.fake_vllm import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A `FakeServer` in a thread: its delays hold however busy the test's own loop is."""
    fake = FakeServer()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    up = threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"
        up.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert up.wait(10)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()

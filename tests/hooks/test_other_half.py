"""Who computed a request's prompt on another server, as far as `kv_transfer_params` say."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_codesign.hooks import engine_client
from vllm_codesign.hooks.frontend_state import BY_DETOKENIZER, REQUESTS
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Field, Kind


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    yield
    REQUESTS.clear()
    BY_DETOKENIZER.clear()


def told(recording: Any, sampling_params: Any) -> dict[int, str]:
    """Strings recorded for a request with these parameters."""
    processor = SimpleNamespace(tracing_enabled=False, request_states={})
    request = SimpleNamespace(
        request_id="a", prompt_token_ids=[1, 2], sampling_params=sampling_params
    )
    engine_client._registered(10, 20, None, processor, request, 0)
    found = [r for r in recording.take() if r.kind == Kind.TEXT]
    assert {r.key for r in found} == {key_of("a")}
    strings = {r.s: r.payload.rstrip(b"\0").decode() for r in found}
    assert strings.pop(Field.REQUEST_ID) == "a"
    return strings


def params(**transfer: Any) -> Any:
    return SimpleNamespace(extra_args={"kv_transfer_params": transfer})


def test_nixls_names_the_request_and_its_engine(recording: Any) -> None:
    one = params(do_remote_prefill=True, remote_request_id="cmpl-1", remote_engine_id="e", port=1)
    assert told(recording, one) == {
        Field.REMOTE_REQUEST_ID: "cmpl-1",
        Field.REMOTE_ENGINE_ID: "e",
    }


def test_mooncakes_an_id_for_both_halves(recording: Any) -> None:
    one = params(transfer_id="t", remote_engine_id="e")
    assert told(recording, one) == {Field.TRANSFER_ID: "t", Field.REMOTE_ENGINE_ID: "e"}


@pytest.mark.parametrize(
    "sampling_params",
    [
        None,
        SimpleNamespace(extra_args=None),
        SimpleNamespace(extra_args={"other": 1}),
        SimpleNamespace(extra_args={"kv_transfer_params": None}),
        SimpleNamespace(extra_args={"kv_transfer_params": ["remote_request_id"]}),
        params(do_remote_decode=True, remote_request_id=None, transfer_id=7),
    ],
)
def test_whatever_else_a_caller_sends_is_none(recording: Any, sampling_params: Any) -> None:
    assert told(recording, sampling_params) == {}

"""Hand-written records of a whole request, and exactly the spans that they make."""

from tests.exporter.records import (
    IDENTITY,
    PARENT,
    SPAN,
    TRACE,
    api_records,
    at,
    engine_records,
    short,
    the_trace,
    us,
)
from vllm_codesign import semconv


def test_a_whole_trace() -> None:
    trace = the_trace(api_records(), engine_records())
    root = trace.root
    assert (root.trace_id, root.span_id, root.parent_id) == (TRACE, SPAN, PARENT)
    assert (root.name, root.kind, root.service) == ("POST /v1/chat/completions", "server", "vllm")
    assert at(root) == (0.001, 9_000)
    assert (root.status, root.links, root.events) == ("unset", (), ())
    assert root.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 16,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.response.time_to_first_chunk": 0.005599999,
        "gen_ai.usage.input_tokens": 64,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 48,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.request.body.size": 500,
        "http.response.status_code": 200,
        "session.id": "s-1",
        "codesign.outcome": "completed",
        "codesign.level": "request",
        "codesign.streaming": True,
        "codesign.monotonic_ns": us(0.001),
    }
    spans = [(s.name, s.service, *at(s), short(s.attributes)) for s in trace.children]
    api, engine = "vllm", "vllm-engine"
    assert sorted(spans, key=lambda s: (s[2], -s[3], s[0])) == [
        (
            "http.receive",
            api,
            0.001,
            200.001,
            {"http.request.body.size": 500, "receive.body_ns": 100_000},
        ),
        ("frontend.run", api, 200.001, 250, {"stage": "prepare"}),
        ("chat_template.wait", api, 250, 260, {"pool.size": 1, "pool.ahead": 0}),
        ("chat_template.render", api, 260, 300, {}),
        ("frontend.wait", api, 300, 330, {"stage": "rendered"}),
        ("frontend.run", api, 330, 350, {"stage": "rendered"}),
        ("tokenize.wait", api, 350, 500, {"pool.size": 1, "pool.ahead": 2}),
        ("tokenize.encode", api, 500, 900, {"tokens": 64}),
        ("frontend.wait", api, 900, 950, {"stage": "tokenized"}),
        ("frontend.run", api, 950, 1000, {"stage": "tokenized"}),
        (
            "engine.dispatch",
            api,
            1000,
            1500,
            {
                **IDENTITY,
                "dispatch.register_ns": 100_000,
                "dispatch.client_ns": 110_000,
                "dispatch.process_inputs_ns": 40_000,
                "dispatch.serialize_ns": 90_000,
                "dispatch.transit_ns": 100_000,
                "dispatch.preprocess_ns": 50_000,
                "dispatch.input_queue_ns": 150_000,
            },
        ),
        (
            "stream.send",
            api,
            1300,
            9000,
            {"calls": 5, "busy_ns": 70_000, "first_call_ns": 20_000, "body.bytes": 900},
        ),
        (
            "engine.queue",
            engine,
            1500,
            3000,
            {
                **IDENTITY,
                "engine.pid": 200,
                "queue.reason": "token_budget",
                "queue.other_ns": 100_000,
                "queue.token_budget_ns": 1_400_000,
            },
        ),
        (
            "prefill",
            engine,
            3000,
            5500,
            {
                **IDENTITY,
                "engine.pid": 200,
                "kv.tokens.hit.hbm": 48,
                "kv.tokens.hit.external": 0,
                "prefill.tokens.computed": 16,
                "prefill.chunks": 2,
                "preemptions": 0,
            },
        ),
        (
            "kv.prefix_lookup",
            engine,
            3020,
            3030,
            {
                **IDENTITY,
                "kv.tokens.asked": 64,
                "kv.tokens.hit.hbm": 48,
                "tries": 1,
                "tries.duration_ns": 10_000,
                "tries.tokens.asked": 64,
                "tries.tokens.hit": 48,
            },
        ),
        (
            "kv.allocate",
            engine,
            3040,
            3060,
            {
                **IDENTITY,
                "kv.blocks": 2,
                "kv.blocks.evicted": 1,
                "tries": 3,
                "tries.duration_ns": 45_000,
            },
        ),
        (
            "decode",
            engine,
            5500,
            8500,
            {
                **IDENTITY,
                "engine.pid": 200,
                "tokens": 4,
                "preemptions": 0,
                "decode.itl_us": (1000, 900, 1100),
                "decode.steps": 3,
                "decode.batch.mean": 2.0,
            },
        ),
        (
            "detokenize",
            api,
            5560,
            8690,
            {**IDENTITY, "calls": 4, "busy_ns": 80_000, "first_call_ns": 50_000, "tokens": 4},
        ),
        (
            "engine.return",
            api,
            8500,
            8700,
            {
                **IDENTITY,
                "return.transit_ns": 50_000,
                "return.output_queue_ns": 20_000,
                "return.process_ns": 130_000,
                "return.count": 4,
                "return.total_ns": 900_000,
            },
        ),
        ("frontend.wait", api, 8700, 8800, {"stage": "respond"}),
        ("frontend.run", api, 8800, 9000, {"stage": "respond"}),
    ]
    (prefill,) = trace.named("prefill")
    assert {s.name for s in trace.children if s.parent_id == prefill.span_id} == {
        "kv.prefix_lookup",
        "kv.allocate",
    }
    assert sorted(s.span_id for s in trace.children) == list(range(1, len(trace.spans)))


def test_spans_carry_what_the_conventions_name() -> None:
    for span in the_trace(api_records(), engine_records()).children:
        named = {attribute.key for attribute in semconv.SPAN_BY_NAME[span.name].attributes}
        assert set(span.attributes) <= named, span.name

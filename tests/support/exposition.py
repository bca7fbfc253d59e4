"""Every metric of semconv and of vLLM's record, with made-up values, as /metrics would say them.

Counters grow by each look, so that rates are not zero; every value that an attribute is known to
take has a series, one of a GPU and of a connector too.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dashboards import vllm_metrics
from vllm_codesign import semconv as S
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.kv_spans import KV_CONNECTOR, KV_TIER
from vllm_codesign.semconv.parts import IdleCause, Part
from vllm_codesign.semconv.types import Attribute

_VALUES: dict[Attribute, Sequence[str]] = {
    S.REQUEST_MODEL: ("tiny", "large"),
    S.OUTCOME: tuple(S.Outcome),
    S.BOTTLENECK: (Part.FRONTEND_WAIT, Part.QUEUE_CAPACITY),
    M.PHASE: [span.name for span in S.SPANS],
    M.PART: tuple(Part),
    M.EXPOSURE: ("exposed", "hidden"),
    M.QUEUE_CAUSE: tuple(S.QueueReason),
    M.DEVICE_STATE: ("busy", "idle"),
    M.IDLE_CAUSE: ("work", *IdleCause),
    M.REQUEST_STATE: ("running", "waiting"),
    M.BLOCK_OPERATION: ("allocated", "evicted"),
    M.TOKEN_SOURCE: ("hbm", "external", "computed", "computed_again"),
    M.TOKEN_TYPE: ("input", "output"),
    M.TRANSFER: ("load", "store"),
    KV_CONNECTOR: ("LMCacheMPConnector",),
    KV_TIER: ("host",),
    S.PROCESS_ROLE: ("api_server", "engine_core", "worker"),
    S.STATISTIC: ("mean", "max"),
}
_CONSTANT = {"service_name": "vllm", "service_instance_id": "one", "codesign_arm": "hbm"}


def _families(looks: int) -> Iterator[str]:
    for metric in M.METRICS:
        names = [M.prometheus_label(a) for a in metric.attributes]
        values = [_VALUES.get(a, ("x",)) for a in metric.attributes]
        for chosen in itertools.product(*values):
            labels = {**dict(zip(names, map(str, chosen), strict=True)), **_CONSTANT}
            buckets = [f"{bound:g}" for bound in metric.buckets]
            yield from _series(M.prometheus_name(metric), metric.instrument, labels, buckets, looks)
    for recorded in vllm_metrics.RECORDED.values():
        labels = {name: "tiny" if name == "model_name" else "x" for name in recorded.labels}
        yield from _series(recorded.name, recorded.type, labels, ["0.1", "10"], looks)


def _series(
    name: str, kind: str, labels: dict[str, str], buckets: Sequence[str], looks: int
) -> Iterator[str]:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    if kind != "histogram":
        yield f"{name}{{{inner}}} {looks if kind == 'counter' else 1}"
        return
    for bucket in (*buckets, "+Inf"):
        comma = "," if inner else ""
        yield f'{name}_bucket{{{inner}{comma}le="{bucket}"}} {looks}'
    yield f"{name}_sum{{{inner}}} {looks * 0.01}"
    yield f"{name}_count{{{inner}}} {looks}"


@contextmanager
def exposed() -> Iterator[str]:
    """Address of a server whose /metrics has them all."""
    looks = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = ("\n".join(_families(next(looks))) + "\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not to stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""Records the metrics of the installed vLLM, as its /metrics answers after a few requests.

    python dashboards/record_vllm_metrics.py

serves the tiny model (2 min) and writes `dashboards/vllm_metrics.tsv`: each metric with its
type and its labels. What vLLM makes only for GPUs, LoRA, speculative decoding or KV connectors
is not in it. (Not JSON: Grafana takes every .json file of this folder for a dashboard.)
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

from vllm_codesign.bench.server import VllmServer, say  # noqa: E402
from vllm_codesign.bench.tiny_model import make  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_name("vllm_metrics.tsv")
MODEL = ROOT / ".cache" / "models" / "tiny"
_PREFIX = "vllm:"
_OF_A_SAMPLE = frozenset(("le", "quantile"))


def record(text: str) -> list[str]:
    """Name on `/metrics`, type and labels of each of vLLM's own metrics in an answer of its."""
    found = []
    for family in text_string_to_metric_families(text):
        # Each counter and histogram has a family of time stamps beside it.
        if not family.name.startswith(_PREFIX) or family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {key for sample in family.samples for key in sample.labels} - _OF_A_SAMPLE
        found.append(f"{name}\t{family.type}\t{','.join(sorted(labels))}")
    return sorted(found)


def answer() -> str:
    """What /metrics says once two completions have ended."""
    make(MODEL)
    with (
        tempfile.TemporaryDirectory() as folder,
        VllmServer(
            MODEL,
            flags=["--enforce-eager", "--max-model-len", "2048"],
            env={"VLLM_PLUGINS": ""},
            log_path=Path(folder) / "server.log",
        ) as server,
    ):
        for _ in range(2):
            body = json.dumps({"model": str(MODEL), "prompt": "def", "max_tokens": 8})
            request = urllib.request.Request(
                f"{server.url}/v1/completions",
                body.encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=120).read()
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
            return str(response.read().decode())


def main() -> None:
    """Write the record."""
    found = record(answer())
    head = (
        f"# vLLM {version('vllm')}; `python dashboards/record_vllm_metrics.py`",
        "# name\ttype\tlabels",
    )
    RECORD.write_text("\n".join((*head, *found)) + "\n")
    say(f"{len(found)} metrics in {RECORD}")


if __name__ == "__main__":
    main()

"""What `record_vllm_metrics.py` keeps of an answer of vLLM's /metrics."""

from __future__ import annotations

import re

from dashboards import vllm_metrics
from dashboards.record_vllm_metrics import record

ANSWER = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{version="3.11"} 1.0
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 0.0
# HELP vllm:request_success_total Count of successes
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 2.0
# HELP vllm:request_success_created Count of successes
# TYPE vllm:request_success_created gauge
vllm:request_success_created{engine="0",finished_reason="stop",model_name="tiny"} 1.7e+09
# HELP vllm:request_queue_time_seconds Time in the queue
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="tiny"} 2.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 2.0
vllm:request_queue_time_seconds_count{engine="0",model_name="tiny"} 2.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="tiny"} 0.001
"""


def test_names_types_and_labels_are_kept() -> None:
    assert record(ANSWER) == [
        "vllm:num_requests_running\tgauge\tengine,model_name",
        "vllm:request_queue_time_seconds\thistogram\tengine,model_name",
        "vllm:request_success_total\tcounter\tengine,finished_reason,model_name",
    ]


def test_the_record_is_of_a_named_version() -> None:
    lines = vllm_metrics.RECORD.read_text().splitlines()
    assert re.fullmatch(r"# vLLM \d+\.\d+\.\d+\S*; `python \S+\.py`", lines[0])
    assert len(vllm_metrics.RECORDED) > 30

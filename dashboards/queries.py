"""PromQL over what semconv and vLLM declare: a name or a label that is not there is an error here.

Every selector carries the dashboard's variables. `$__rate_interval` and `$__range` are Grafana's.
"""

from __future__ import annotations

from collections.abc import Mapping

from dashboards import vllm_metrics
from vllm_codesign.semconv import metrics
from vllm_codesign.semconv.metrics import Metric, prometheus_label, prometheus_name
from vllm_codesign.semconv.spans import REQUEST_MODEL
from vllm_codesign.semconv.types import Attribute

RATE = "$__rate_interval"
RANGE = "$__range"
"""The whole time shown: for single figures."""
INSTANCE = "instance"
ARM = prometheus_label(metrics.ARM)
"""On the exporter's series where the server was told its arm."""
VLLM_MODEL = "model_name"

Where = Mapping[Attribute, str]
"""Attribute to what it must be; a value with a sign of PromQL before it (`=~`, `!=`) keeps it."""


def own(metric: Metric, where: Where | None = None, suffix: str = "") -> str:
    """Selector of one of our metrics; `suffix` is that of a histogram's series."""
    _check_suffix(metric.name, metric.instrument == "histogram", suffix)
    unknown = [a.key for a in where or {} if a not in metric.attributes]
    if unknown:
        raise ValueError(f"{metric.name} has no {unknown}; it has {metric.attributes}")
    matchers = [f'{INSTANCE}=~"$instance"', f'{ARM}=~"$arm"']
    if REQUEST_MODEL in metric.attributes:
        matchers.append(f'{prometheus_label(REQUEST_MODEL)}=~"$model"')
    matchers += [_matcher(prometheus_label(a), value) for a, value in (where or {}).items()]
    return f"{prometheus_name(metric)}{suffix}{{{', '.join(matchers)}}}"


def vllm(name: str, where: Mapping[str, str] | None = None, suffix: str = "") -> str:
    """Selector of one of vLLM's own metrics, by its name without `vllm:`."""
    metric = vllm_metrics.RECORDED[f"vllm:{name}"]
    _check_suffix(metric.name, metric.type == "histogram", suffix)
    unknown = set(where or {}) - metric.labels
    if unknown:
        raise ValueError(f"{metric.name} has no {unknown}; it has {sorted(metric.labels)}")
    matchers = [f'{INSTANCE}=~"$instance"', f'{VLLM_MODEL}=~"$model"']
    matchers += [_matcher(label, value) for label, value in (where or {}).items()]
    return f"{metric.name}{suffix}{{{', '.join(matchers)}}}"


def rate(selector: str, window: str = RATE) -> str:
    return f"rate({selector}[{window}])"


def total(expression: str, *by: Attribute | str) -> str:
    return _aggregated("sum", expression, by)


def most(expression: str, *by: Attribute | str) -> str:
    return _aggregated("max", expression, by)


def mean(metric: Metric, *by: Attribute, where: Where | None = None, window: str = RATE) -> str:
    """Mean of a histogram's values."""
    parts = (total(rate(own(metric, where, suffix), window), *by) for suffix in ("_sum", "_count"))
    return " / ".join(parts)


def quantile(
    q: float, metric: Metric, *by: Attribute, where: Where | None = None, window: str = RATE
) -> str:
    buckets = total(rate(own(metric, where, "_bucket"), window), "le", *by)
    return f"histogram_quantile({q}, {buckets})"


def vllm_quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, {total(rate(vllm(name, suffix='_bucket')), 'le')})"


def vllm_mean(name: str) -> str:
    parts = (total(rate(vllm(name, suffix=suffix))) for suffix in ("_sum", "_count"))
    return " / ".join(parts)


def share(part: str, whole: str, *by: Attribute | str) -> str:
    """`part` of `whole`; where `part` is told apart by `by`, `whole` is all of them together."""
    if not by:
        return f"{total(part)} / {total(whole)}"
    return f"{total(part, *by)} / on() group_left {total(whole)}"


def _aggregated(operator: str, expression: str, by: tuple[Attribute | str, ...]) -> str:
    if not by:
        return f"{operator}({expression})"
    labels = ", ".join(b if isinstance(b, str) else prometheus_label(b) for b in by)
    return f"{operator} by ({labels}) ({expression})"


def _matcher(label: str, value: str) -> str:
    for sign in ("=~", "!~", "!="):
        if value.startswith(sign):
            return f'{label}{sign}"{value.removeprefix(sign)}"'
    return f'{label}="{value}"'


def _check_suffix(name: str, histogram: bool, suffix: str) -> None:
    wanted = ("_bucket", "_sum", "_count") if histogram else ("",)
    if suffix not in wanted:
        raise ValueError(f"{name} has the series {wanted}, not {suffix!r}")

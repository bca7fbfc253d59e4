"""What `/metrics` says: names, buckets, exemplars, formats."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.exported import OPENMETRICS
from tests.support.measured import LABELS, Measured, measured
from vllm_codesign.model.trace import Span
from vllm_codesign.semconv import metrics as M


@pytest.fixture
def made() -> Measured:
    return measured()


def values_of(metric: M.Metric) -> list[str]:
    return [f"v{number}" for number, _ in enumerate(metric.attributes)]


def fill(made: Measured) -> None:
    """One value for each metric."""
    for number, metric in enumerate(M.METRICS, 1):
        if metric.instrument == "histogram":
            made.histograms.record(metric, number, None, *values_of(metric))
        elif metric.instrument == "counter":
            made.board.add(metric, number * 1_000_000_000, *values_of(metric))
        else:
            made.board.put(metric, number, *values_of(metric))


def test_every_metric_appears_under_its_name_with_its_labels(made: Measured) -> None:
    fill(made)
    said = made.exported()
    for number, metric in enumerate(M.METRICS, 1):
        name = M.prometheus_name(metric)
        family = said.families[name.removesuffix("_total")]
        assert family.type == metric.instrument
        assert family.documentation == metric.brief
        labels = {
            M.prometheus_label(a): v
            for a, v in zip(metric.attributes, values_of(metric), strict=True)
        }
        suffix = "_sum" if metric.instrument == "histogram" else ""
        (sample,) = [s for s in family.samples if s.name == name + suffix]
        assert sample.labels == {**labels, **LABELS}
        seconds = metric.instrument != "counter" or metric.unit in ("s", "By.s")
        assert sample.value == (number if seconds else number * 1_000_000_000)
    assert len(said.families) == len(M.METRICS)


def test_buckets_are_semconvs_and_cumulative(made: Measured) -> None:
    for value in (0.01, 0.0100001, 3.0, 1e9):
        made.histograms.record(M.TIME_PER_OUTPUT_TOKEN, value, None, "chat", "vllm", "m")
    family = made.exported().families[M.prometheus_name(M.TIME_PER_OUTPUT_TOKEN)]
    buckets = [(s.labels["le"], s.value) for s in family.samples if s.name.endswith("_bucket")]
    assert [float(le) for le, _ in buckets] == [*M.TPOT_BUCKETS, float("inf")]
    counts = dict(buckets)
    assert (counts["0.01"], counts["0.025"], counts["2.5"], counts["+Inf"]) == (1, 2, 2, 4)


def root(number: int) -> Span:
    return Span("x", "vllm", number, number + 1, 0, 0, 1, kind="server")


def test_exemplars_stand_in_their_buckets_and_stay(made: Measured) -> None:
    """People look as well as Prometheus."""
    for number, value in ((5, 0.0001), (6, 0.0003), (7, 0.00031), (8, 1e6)):
        ids = made.histograms.ids(root(number), True)
        made.histograms.record(M.PHASE_DURATION, value, ids, "m", "decode")

    def exemplars() -> dict[str, tuple[str, float]]:
        family = made.exported().families[M.prometheus_name(M.PHASE_DURATION)]
        return {
            s.labels["le"]: (s.exemplar.labels["trace_id"], s.exemplar.value)
            for s in family.samples
            if s.exemplar is not None
        }

    wanted = {
        "0.0001": (f"{5:032x}", 0.0001),
        "0.0005": (f"{7:032x}", 0.00031),
        "+Inf": (f"{8:032x}", 1e6),
    }
    assert exemplars() == wanted
    assert exemplars() == wanted
    made.histograms.record(M.PHASE_DURATION, 0.0004, (9, 10), "m", "decode")
    assert exemplars() == {**wanted, "0.0005": (f"{9:032x}", 0.0004)}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html,*/*", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_what_is_asked_for(made: Measured, accept: str, content_type: str) -> None:
    fill(made)
    body, said = made.reader.render(accept)
    assert said.startswith(content_type)
    text = body.decode()
    assert text.endswith("# EOF\n") == ("openmetrics" in content_type)
    if "openmetrics" not in content_type:
        families = {f.name: f for f in text_string_to_metric_families(text)}
        assert len(families) == len(M.METRICS)
        assert "trace_id" not in text, "exemplars are OpenMetrics'"


def test_nothing_yet_is_well_formed() -> None:
    assert measured().text() == "# EOF\n"


def test_a_gauge_that_is_not_known_any_more_is_gone(made: Measured) -> None:
    made.board.put_all(M.PROCESS_CORES, {("worker",): 1.5, ("api_server",): 0.5})
    assert made.exported().by(M.PROCESS_CORES, "codesign_process_role") == {
        "worker": 1.5,
        "api_server": 0.5,
    }
    made.board.put_all(M.PROCESS_CORES, {("worker",): 2.0})
    assert made.exported().by(M.PROCESS_CORES, "codesign_process_role") == {"worker": 2.0}

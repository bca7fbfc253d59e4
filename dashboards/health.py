"""Is what the dashboards show whole? Panels on the measuring itself."""

from __future__ import annotations

from dashboards.layout import Row
from dashboards.panels import Panel, Query
from dashboards.queries import INSTANCE, own, rate, total
from vllm_codesign.semconv import metrics as M

HEALTH = Row(
    "Is the measuring whole?",
    (
        Panel(
            "Records dropped",
            "Records that vLLM's processes overwrote before the exporter had read them, by kind.",
            "requests of that time are marked `codesign.lossy` and their parts may lie in "
            "`unattributed`. Give the exporter a core, or raise `CODESIGN_RING_BYTES`; "
            "`codesign level request` records no steps, at once, while the server runs.",
            (
                Query(
                    total(rate(own(M.RECORDS_DROPPED)), M.RECORD_KIND), "{{codesign_record_kind}}"
                ),
            ),
            unit="cps",
            width=6,
        ),
        Panel(
            "Other losses",
            "What captures and metrics miss beside single records.",
            "the name is that of the counter in the capture's `run.json`; what the capture misses, "
            "the tables of `codesign analyze` say.",
            (Query(total(rate(own(M.LOSSES)), M.LOSS), "{{codesign_loss}}"),),
            unit="cps",
            width=6,
        ),
        Panel(
            "Exporter's lag",
            "Age of the oldest record that the exporter had not read when it last looked.",
            "above a second metrics come late, and when the rings are full records are dropped: "
            "look at the exporter's CPU time beside this, and whether it shares its core.",
            (Query(own(M.EXPORTER_LAG), f"{{{{{INSTANCE}}}}}"),),
            unit="s",
            width=6,
        ),
        Panel(
            "Exporter's CPU time",
            "Cores that the exporter uses.",
            "it grows with requests and steps a second. Where it is more than you want to pay, "
            "`codesign level request` leaves out the steps.",
            (Query(rate(own(M.EXPORTER_CPU)), f"{{{{{INSTANCE}}}}}"),),
            unit="cores",
            width=6,
        ),
    ),
)

"""Everything that one exporter counts, brought together for `run.json` and the metrics."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.collect import Collector, kind_name
from vllm_codesign.exporter.local import LocalStore
from vllm_codesign.exporter.metrics.live import Metrics
from vllm_codesign.exporter.otlp import Sender
from vllm_codesign.exporter.tally import Tally
from vllm_codesign.recorder.session import Session


class Counted:
    """Reads the counters of all parts; those of losses go on where the exporter before stood.

    `own` are the loop's. `local` and `metrics` are set once they are there.
    """

    def __init__(
        self,
        own: Mapping[str, int],
        session: Session,
        collector: Collector,
        assembler: Assembler,
        sender: Sender,
    ) -> None:
        self.tally = Tally(session)
        self.local: LocalStore | None = None
        self.metrics: Metrics | None = None
        self._own = own
        self._session = session
        self._collector = collector
        self._assembler = assembler
        self._sender = sender

    def losses(self) -> dict[str, int]:
        """All of `tally.LOSSES`, of every exporter of this session."""
        steps, sent = self._assembler.steps, self._sender.stats()
        mine = {
            "rows_not_stored": self.local.lost if self.local is not None else 0,
            "steps_lost": steps.lost,
            "steps_not_stored": self._own["steps_not_stored"],
            "traces_failed": self._own["traces_failed"],
            "roots_skipped": self._own["roots_skipped"],
            "orphan_records": self._assembler.orphans,
            "otlp_dropped": sent["dropped"],
            "otlp_failed": sent["failed"],
            "metrics_failed": self.metrics.failures if self.metrics is not None else 0,
            "connector_calls_missed": steps.calls.missed,
        }
        # These two stand in shared memory themselves.
        shared = {
            "requests_lost": self._session.requests_lost,
            "hook_errors": self._collector.errors,
        }
        return {**self.tally.add(mine), **shared}

    def note(self) -> None:
        """Leave the losses to the exporter after this one, should this one be killed now."""
        self.tally.note(self.losses())

    def all(self) -> dict[str, int]:
        """Every counter by its name in `run.json`. Noted first: what was told goes on."""
        losses = self.losses()
        self.tally.note(losses)
        return {
            **self._own,
            **{f"otlp_{key}": value for key, value in self._sender.stats().items()},
            "records_lost": self._collector.lost,
            "exporter_starts": self._session.exporter_starts,
            **losses,
        }

    def drops(self) -> dict[str, int]:
        """Records lost by the name of their kind; noted, like the others."""
        drops = self._collector.drops()
        self.tally.note_drops(drops)
        return {kind_name(number): count for number, count in drops.items()}

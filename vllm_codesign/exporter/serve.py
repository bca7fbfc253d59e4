"""The exporter's loop: rings in; store and OTLP out; until its server is gone and drained."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from vllm_codesign import settings as settings_module
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.exporter import otlp_settings, run_file
from vllm_codesign.exporter.accountant import Accountant
from vllm_codesign.exporter.assemble import REMEMBER, Assembler
from vllm_codesign.exporter.build import Builder, caller_sampled
from vllm_codesign.exporter.clock import Anchor
from vllm_codesign.exporter.collect import Collector
from vllm_codesign.exporter.counted import Counted
from vllm_codesign.exporter.facts import Origin
from vllm_codesign.exporter.local import LocalStore
from vllm_codesign.exporter.metrics import live as live_metrics
from vllm_codesign.exporter.otlp import Sender, service_name
from vllm_codesign.exporter.samplers.every import Samplers
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.session import Session, SessionGone, join

logger = logging.getLogger("vllm_codesign.exporter")

POLL_S = 0.05
"""A ring of 1 MiB holds 16,000 records: 50 ms of a server that records 300,000 a second."""

KEEP_STEPS_NS = 60_000_000_000
"""Steps are kept this long though no request in the making saw them, for late ones."""

BEHIND = 3
"""A round that takes more than this part of all rings: traces of steps are left out, and
counted, rather than records of requests lost."""

NICE = 5
"""The server comes first; but at 10, beside processes that spin, the exporter of a server of 600
steps a second fell behind for good."""

LEFTOVERS_NS = 500_000_000
HOUSEKEEPING_S = 1.0
ALIVE_S = 0.25
RUN_FILE_S = 10.0
RETENTION_S = 300.0
FLUSH_S = 5.0
TERM_GRACE_S = 10.0
RESTART_ME = 75  # EX_TEMPFAIL: ended although the server still runs


class Exporter:
    """Everything that one run of the exporter holds."""

    def __init__(self, session: Session, settings: settings_module.Settings) -> None:
        self.session = session
        self.settings = settings
        self.collector = Collector(session)
        self.assembler = Assembler()
        self.samplers = Samplers(session)
        self.accountant = Accountant()
        self._sampled: OrderedDict[int, bool] = OrderedDict()
        self.anchor = Anchor()
        self.counters = {
            "records": 0,
            "requests": 0,
            "steps": 0,
            "steps_not_stored": 0,
            "spans": 0,
            "roots_skipped": 0,
            "traces_failed": 0,
        }
        self._resource: dict[str, str] = {
            "service.instance.id": session.folder.name,
            "host.name": os.uname().nodename,
        }
        self.sender = self._make_sender()
        self._counted = Counted(self.counters, session, self.collector, self.assembler, self.sender)
        self.builder = Builder(
            service_name(os.environ),
            self.anchor.to_unix,
            self.assembler.heads,
            calls=self.assembler.steps.calls.of,
        )
        self.local: LocalStore | None = None
        self._open_store()
        self.metrics = self._counted.metrics = live_metrics.make(
            os.environ,
            settings,
            self._resource,
            self.assembler,
            self.builder,
            self._counted.tally.before,
        )
        if self.local is not None or self.metrics is not None:
            self.samplers.start()
        self._saved_at = 0.0
        self._segments_saved = 0
        self._retained_at = 0.0
        self.collector.find()
        self._lost = self.collector.lost  # before the first record: lost to a predecessor
        self._losses_saved: tuple[int, ...] = ()
        self._behind = False
        self._leftovers_at = 0

    def _make_sender(self) -> Sender:
        _, problems = otlp_settings.read(os.environ)
        if not problems:
            try:
                return Sender.from_environment(os.environ, self._resource)
            except CodesignError as error:
                problems = [str(error)]
        for problem in problems:
            logger.error("codesign: nothing is sent over OTLP: %s", problem)
        return Sender(None, self._resource)

    def _open_store(self) -> None:
        store = self.settings.store
        if store is None:
            return
        try:
            self.local = self._counted.local = LocalStore(store, self.session, self.settings)
        except (OSError, CodesignError) as error:
            logger.error(
                "codesign: no local store in %s (%s); set CODESIGN_STORE to a writable folder, "
                "or to nothing for none",
                store,
                error,
            )

    def poll(self, final: bool = False) -> int:
        """One round: take all new records, hand out what is complete. Returns the records taken."""
        self.collector.find()
        # Every record written before this instant is read in this round.
        read_until = time.monotonic_ns()
        taken = 0
        # Not only when the round is over: starved of CPU, one may last seconds.
        for pid, record in self.collector.read(final, self._leave_word):
            taken += 1
            self.samplers.take(pid, record)
            self.assembler.take(pid, record)
            if self.metrics is not None and record.kind in self.metrics.kinds:
                self.metrics.take(pid, record)
            if self.local is not None:
                self.local.keep(pid, record)
        self.counters["records"] += taken
        if self.metrics is not None:
            self.metrics.read(read_until, taken)
        self._behind = taken * BEHIND > self.collector.capacity and not final
        self._mark_lossy()
        self._hand_out_steps(read_until, final)
        self._hand_out(read_until, final)
        self._leave_word()
        self._save_run_if_due()
        return taken

    def _save_run_if_due(self) -> None:
        """At once when something was lost or stored: this process may be the next one killed."""
        if self.local is None:
            return
        now, segments = time.monotonic(), self.local.segments
        if (
            now - self._saved_at > RUN_FILE_S
            or segments != self._segments_saved
            or self._lost_for_good() != self._losses_saved
        ):
            self._saved_at, self._segments_saved = now, segments
            self.save_run(complete=False)

    def _leave_word(self) -> None:
        """What was lost, and what would be if this process were killed now."""
        unsaved = self.local.unsaved if self.local is not None else 0
        self.session.report_open(self.assembler.open + unsaved)
        self._counted.note()

    def _mark_lossy(self) -> None:
        """Records were lost: whatever is open may lack some of its own."""
        lost = self.collector.lost
        if lost != self._lost:
            self._lost = lost
            for facts in (*self.assembler.roots.values(), *self.assembler.engines.values()):
                facts.lossy = True

    def _hand_out_steps(self, read_until: int, final: bool) -> None:
        for step in self.assembler.steps.complete(read_until, final, self.collector.gone):
            try:
                self._hand_out_step(step)
            except Exception:  # noqa: BLE001
                self._trace_failed()
        needed = self.metrics.needs_steps_since if self.metrics is not None else read_until
        self.accountant.trim(min(self.assembler.oldest_begin(), read_until - KEEP_STEPS_NS, needed))

    def _hand_out_step(self, step: Step) -> None:
        self.accountant.take(step)
        self.counters["steps"] += 1
        if self.metrics is not None:
            self.metrics.step(step)
        if self._behind:
            # Three quarters of a step's cost; requests are still accounted for by it.
            self.counters["steps_not_stored"] += 1
            return
        trace = trace_of(
            step,
            self.builder.service_name,
            secrets.randbits(128) or 1,
            self.builder.new_id,
            self.anchor.to_unix,
        )
        self.counters["spans"] += len(trace.spans)
        if self.local is not None:
            self.local.add(trace, self._resource)
        if self.sender.active and any(
            self._is_sampled(member.trace_id, member.span_id) for member in step.members or ()
        ):
            self.sender.send(trace)

    def _is_sampled(self, trace_id: int, span_id: int) -> bool:
        """Whether the request under this root is sent, asked for its first step."""
        known = self._sampled.get(span_id)
        if known is None:
            root = self.assembler.roots.get(self.assembler.steps.root_keys.get(span_id, 0))
            if root is None:  # offline: its root is made when it ends
                stub, parent_sampled = self.builder.engine_stub(trace_id, span_id), None
            else:
                stub, parent_sampled = self.builder.root_stub(root), caller_sampled(root)
            known = self._sampled[span_id] = self.sender.sampled(stub, parent_sampled)
            while len(self._sampled) > REMEMBER:
                self._sampled.popitem(last=False)
        return known

    def _hand_out(self, read_until: int, final: bool) -> None:
        for root in self.assembler.complete(read_until, final, self.collector.gone):
            try:
                traces = self.builder.request(root, read_until, final)
            except Exception:  # noqa: BLE001  # one must not end the process that holds all others
                self._trace_failed()
                continue
            if not traces:
                self.counters["roots_skipped"] += 1
                continue
            try:
                traces[0] = self.accountant.account(traces[0])
            except Exception:  # noqa: BLE001  # it is told all the same, without its parts
                self._trace_failed()
            first = traces[0].root
            ended = root.get(Kind.ROOT_END)
            end = ended.t0 if ended else read_until
            self.assembler.remember(
                root.key,
                Origin(first.trace_id, first.span_id, end, first.end_ns - end),
            )
            parent_sampled = caller_sampled(root)
            for index, trace in enumerate(traces):
                self._emit(trace, parent_sampled if index == 0 else None)
            self.counters["requests"] += 1
        if not final and read_until < self._leftovers_at:
            return
        self._leftovers_at = read_until + LEFTOVERS_NS
        for engine in self.assembler.leftovers(read_until, final):
            try:
                late = self.builder.engine(
                    engine, self.assembler.ended.get(engine.root_key), read_until
                )
                late = self.accountant.name_steps(late) if late is not None else None
            except Exception:  # noqa: BLE001
                self._trace_failed()
                continue
            if late is not None:
                self._emit(late, None)

    def _trace_failed(self) -> None:
        """Count a trace that could not be built; the first one with its cause."""
        if not self.counters["traces_failed"]:
            logger.exception("codesign: a trace could not be built; others are only counted")
        self.counters["traces_failed"] += 1

    def _emit(self, trace: RequestTrace, parent_sampled: bool | None) -> None:
        self.counters["spans"] += len(trace.spans)
        if self.local is not None:
            self.local.add(trace, self._resource)
        sent = self.sender.active and self.sender.sampled(trace.root, parent_sampled)
        if sent:
            self.sender.send(trace)
        if self.metrics is not None:
            self.metrics.request(trace, kept=sent or self.local is not None)

    def housekeep(self) -> None:
        """Once a second: samples, metrics, segments that are due, `run.json`, caps."""
        now_ns, now = time.monotonic_ns(), time.monotonic()
        self.anchor.poll()
        self.session.beat()
        if self.local is None and self.metrics is None:
            return
        running = self.collector.running
        samples = list(self.samplers.sample(now_ns, running))
        if self.metrics is not None:
            self.metrics.samples(now_ns, samples, running)
            self.metrics.look(
                self.session.level,
                self.collector.gone,
                self._counted.all(),
                self._counted.drops(),
            )
            self.metrics.close_windows(self.accountant.timelines, self.collector.gone)
        if self.local is None:
            return
        for sample in samples:
            series = sample.series
            at = self.anchor.to_unix(sample.at_ns)
            self.local.sample(at, series.name, series.unit, sample.value, sample.attributes)
        self.local.poll()
        if now - self._retained_at > RETENTION_S:
            self._retained_at = now
            self.local.enforce_caps()

    def _lost_for_good(self) -> tuple[int, ...]:
        """Whatever changes here is written down at once."""
        rows = self.local.lost if self.local is not None else 0
        return self.collector.lost, self.session.requests_lost, rows

    def save_run(self, complete: bool) -> None:
        """Bring `run.json` up to date."""
        if self.local is None:
            return
        self._losses_saved = self._lost_for_good()
        self.local.save_run(
            self._counted.all(),
            hooks=run_file.hook_rows(self.session) or self.local.run.hooks,
            anchors=run_file.anchors(self.anchor.readings),
            drops=self._counted.drops(),
            level=settings_module.LEVELS[self.session.level],
            cpu=self.samplers.facts(time.monotonic_ns(), self.collector.running),
            complete=complete,
            finished_ns=time.time_ns() if complete else None,
        )

    def finish(self, complete: bool) -> None:
        """Everything out: the rest of the rings, open requests, segments, the OTLP queue."""
        self.poll(final=complete)
        self.samplers.close()
        self.housekeep()
        if self.local is not None:
            self.local.close()
            self._leave_word()
        # The local capture is whole now; an endpoint that hangs must not delay that.
        self.save_run(complete)
        if self.sender.active:
            self.sender.close(FLUSH_S)
            self.save_run(complete)
        if self.metrics is not None:
            self.metrics.close_last_window(self.accountant.timelines, self.collector.gone)
            self.metrics.close(FLUSH_S)
        self._leave_word()


def serve(folder: Path) -> int:
    """Run until the session's producers are gone; returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    settings, _ = settings_module.load()  # the server has warned of bad values already
    try:
        session = join(folder)
    except (OSError, SessionGone) as error:
        logger.error("codesign: %s is no session of a running server: %s", folder, error)
        return 1
    os.nice(NICE)
    os.umask(0o077)  # session ids and the command line are nobody else's business
    terminated_at: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: terminated_at.append(time.monotonic()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session.enter_exporter()
    exporter = Exporter(session, settings)
    next_housekeeping = next_alive = 0.0
    alive = True
    while True:
        # Before the rings: what a producer wrote until its end is read in this round.
        if time.monotonic() >= next_alive:
            next_alive = time.monotonic() + ALIVE_S
            alive = exporter.collector.any_alive()
        taken = exporter.poll()
        if time.monotonic() >= next_housekeeping:
            next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            exporter.housekeep()
        if not alive:
            with suppress(PermissionError):  # no server is left to come first
                os.setpriority(os.PRIO_PROCESS, 0, 0)
            exporter.finish(complete=True)
            session.remove()
            return 0
        # A service manager terminates us together with the server: wait for its last words.
        if terminated_at and time.monotonic() - terminated_at[0] > TERM_GRACE_S:
            exporter.finish(complete=False)
            return RESTART_ME
        if taken < 1000:
            time.sleep(POLL_S)

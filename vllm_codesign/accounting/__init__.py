"""Where a request's wall time went, and why the device stood idle.

Pure functions from `model` types to `Accounting`: the exporter calls them on a live stream,
`analyze` on a capture, and both get the same integers. `docs/accounting.md` says what each
part means; the rules stand in `request.py` and `fleet.py`, the arithmetic in `sweep.py`.
"""

from vllm_codesign.accounting.fleet import EngineTime, Fleet, Work, fleet
from vllm_codesign.accounting.request import account, bottleneck, exposed_ns
from vllm_codesign.accounting.timeline import NoSuchTimes, Timeline, timelines

__all__ = [
    "EngineTime",
    "Fleet",
    "NoSuchTimes",
    "Timeline",
    "Work",
    "account",
    "bottleneck",
    "exposed_ns",
    "fleet",
    "timelines",
]

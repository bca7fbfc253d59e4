"""The queries over a million spans: seconds and peak memory of ClickHouse (chdb) and of DuckDB.

    python benchmarks/clickhouse.py --spans 1130000

Each engine runs in a process of its own over the same generated segments; ClickHouse from the table
that `codesign store push --create` makes, DuckDB from the Parquet files (at most 1 GB, then it
spills). Memory is the process's peak resident size, the engine's own start included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from tests.support import many_spans  # noqa: E402
from vllm_codesign.analysis.sql import query as queries  # noqa: E402
from vllm_codesign.analysis.sql.engines import Engine, over  # noqa: E402
from vllm_codesign.analysis.sql.query import Parameters  # noqa: E402
from vllm_codesign.store.capture import Capture  # noqa: E402


def measure(which: str, folder: Path, out: Connection) -> None:
    begun = time.perf_counter()
    engine: Engine
    if which == "ClickHouse":
        from tests.support.clickhouse import Chdb, in_chdb

        engine = in_chdb(Chdb(), folder / "traces", [])
    else:
        engine = over(Capture(folder), [])
    seconds = {"load": time.perf_counter() - begun}
    wide = Parameters().around(engine.rows("range", Parameters())[0]["longest_ns"])
    for name in queries.NAMES:
        begun = time.perf_counter()
        engine.rows(name, wide)
        seconds[name] = time.perf_counter() - begun
    out.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def generate(folder: Path, spans: int, out: Connection) -> None:
    """In a process of its own, so that its memory is nobody else's."""
    made = many_spans.generate(spans)
    many_spans.write(made, folder / "traces")
    out.send((len(made.spans), made.requests))


def apart(function: object, *arguments: object) -> tuple[object, object]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, there))  # type: ignore[arg-type]
    process.start()
    there.close()
    answer = here.recv()
    process.join()
    return answer  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--spans", type=int, default=1_130_000, help="about so many (default: %(default)s)"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spans, requests = apart(generate, folder, asked.spans)
        print(f"{spans:,} spans of {requests:,} requests")
        found = {which: apart(measure, which, folder) for which in ("ClickHouse", "DuckDB")}
    print(f"{'seconds':18}" + "".join(f"{which:>12}" for which in found))
    for name in ("load", *queries.NAMES):
        print(f"{name:18}" + "".join(f"{s[name]:12.2f}" for s, _ in found.values()))  # type: ignore[index]
    print(f"{'peak MiB':18}" + "".join(f"{peak:12,.0f}" for _, peak in found.values()))


if __name__ == "__main__":
    main()

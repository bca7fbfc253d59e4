"""Writes the dashboards, or proves that they are current and ask only for what exists.

    python dashboards/generate.py                     # write dashboards/*.json
    python dashboards/generate.py --check             # exit 1 and one line for each fault
    python dashboards/generate.py --check --schemas FOLDER

FOLDER holds Grafana's published JSON schemas: `jsonschema/` of github.com/grafana/
grafana-foundation-sdk. Without it, what Grafana needs is checked by `checks.py` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

from dashboards.checks import check  # noqa: E402
from dashboards.frontend import FRONTEND  # noqa: E402
from dashboards.host_device import HOST_DEVICE  # noqa: E402
from dashboards.layout import Dashboard  # noqa: E402
from dashboards.overview import OVERVIEW  # noqa: E402
from dashboards.scheduler_kv import SCHEDULER_KV  # noqa: E402
from dashboards.traces import TRACES  # noqa: E402

FOLDER = Path(__file__).parent
DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, HOST_DEVICE, FRONTEND, SCHEDULER_KV, TRACES)


def text(dashboard: Dashboard) -> str:
    """The file's content."""
    return json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"


def path(dashboard: Dashboard, folder: Path = FOLDER) -> Path:
    return folder / f"{dashboard.name}.json"


def faults(folder: Path = FOLDER, published: Path | None = None) -> list[str]:
    """One line for each file that is not current, and for all that is wrong in one."""
    found = []
    wanted = {path(dashboard, folder): text(dashboard) for dashboard in DASHBOARDS}
    for file in sorted({*wanted, *folder.glob("*.json")}):
        if file not in wanted:
            found.append(f"{file.name}: no dashboard of this name; delete it")
        elif not file.is_file() or file.read_text() != wanted[file]:
            found.append(f"{file.name}: not current; run `make dashboards`")
        if file.is_file():
            dashboard = json.loads(file.read_text())
            found += check(dashboard)
            if published is not None:
                # jsonschema comes with vLLM: not wanted where nobody asks for this.
                from dashboards import schemas

                found += schemas.faults(dashboard, published)
    return found


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, look for faults")
    parser.add_argument("--schemas", type=Path, help="folder of Grafana's JSON schemas")
    arguments = parser.parse_args()
    if not arguments.check:
        for dashboard in DASHBOARDS:
            path(dashboard).write_text(text(dashboard))
        return
    found = faults(published=arguments.schemas)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        sys.exit(1)
    panels = sum(len(row.panels) for dashboard in DASHBOARDS for row in dashboard.rows)
    print(
        f"{len(DASHBOARDS)} dashboards, {panels} panels: current, nothing asked that is not there"
    )


if __name__ == "__main__":
    main()

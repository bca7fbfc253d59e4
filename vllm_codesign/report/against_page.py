"""Two captures on one page: what each waited for, one bar above the other, and the difference."""

from __future__ import annotations

from vllm_codesign import __version__
from vllm_codesign.analysis import against, tables
from vllm_codesign.analysis.against import Against
from vllm_codesign.report import bars
from vllm_codesign.report.environment import environment


def render_against(found: Against) -> str:
    """The whole page; it opens from disk and has no script."""
    wholes = [
        bars.whole(f"{pair.name} · {which}", pair.means(scenario), scenario.accounts.total.mean)
        for pair in found.pairs
        for which, scenario in (("this", pair.here), ("against", pair.there))
        if scenario.accounts is not None
    ]
    return (
        environment()
        .get_template("against.html.j2")
        .render(
            found=found,
            sides=(("this", found.here), ("against", found.there)),
            lossy=[
                f"{which}: {line}"
                for which, view in (("this", found.here), ("against", found.there))
                for line in view.lossy
            ],
            parts=bars.parts(wholes),
            sheets=[against.sheet(pair) for pair in found.pairs],
            view_name=tables.VIEW,
            version=__version__,
        )
    )

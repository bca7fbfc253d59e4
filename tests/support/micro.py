"""A run of `codesign micro` with round numbers: what is drawn and tabled of it can be told."""

from __future__ import annotations

from vllm_codesign.model.micro import Growth, MicroRun, Skipped, Timing

SIZES = (1_000, 10_000, 100_000)


def timing(component: str, ns: float, **others: object) -> Timing:
    """Three rounds around `ns`, a tenth off at most."""
    return Timing.model_validate(
        {
            "component": component,
            "group": "frontend",
            "samples_ns": [0.9 * ns, ns, 1.1 * ns],
            "median_ns": ns,
            "low_ns": 0.9 * ns,
            "high_ns": 1.1 * ns,
            **others,
        }
    )


def growth(component: str, exponent: float, **others: object) -> Growth:
    return Growth.model_validate(
        {
            "component": component,
            "group": "frontend",
            "against": "tokens",
            "sizes": [1_000, 10_000, 50_000, 100_000],
            "exponent": exponent,
            "low": exponent - 0.02,
            "high": exponent + 0.02,
            "method": "made up",
            **others,
        }
    )


def run() -> MicroRun:
    """Encode grows linearly, 2 us a token; a step of detokenizing does not grow."""
    scheduler = {"group": "scheduler", "variant": "decode"}
    return MicroRun(
        tool_version="1.2.3",
        started_unix_ns=1_700_000_000_000_000_000,
        environment={"cpu": "A <processor>", "python": "CPython 3.11", "vllm": "0.32.0"},
        timings=[
            *(timing("encode", 2_000.0 * size, tokens=size) for size in SIZES),
            *(
                timing("detokenize_step", ns, tokens=size, variant=variant)
                for variant, ns in (("fast", 1_500.0), ("slow", 20_000.0))
                for size in SIZES
            ),
            timing("sse_parse", 1_950.0),
            *(
                timing("schedule", 1_000.0 * requests, tokens=size, requests=requests, **scheduler)
                for requests in (1, 16, 256)
                for size in SIZES
            ),
        ],
        growths=[
            growth("encode", 1.0),
            growth("detokenize_step", 0.0, variant="fast"),
            growth("schedule", 1.2, against="requests", at=1_000, **scheduler),
        ],
        skipped=[Skipped(component="lmcache_key", reason="lmcache is not installed")],
    )

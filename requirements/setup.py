"""Builds the environment that `make test` and `make demo` run in. Standard library only.

    setup.py [VERSION]      .venv for vLLM 0.32.0, .venv-VERSION for another version
    setup.py --otel-1.40    .venv-otel-1.40: the plugin and its tests, without vLLM
    setup.py --docs         .venv-docs: what builds the documentation's site
    setup.py --lock         rewrite the pinned files from the .in files

TORCH_INDEX in the environment names another index for torch.
Each step looks at what is there and does what is missing, so a second run takes seconds and
an interrupted one is resumed. uv makes the environment; it comes from the package index into
a small environment of its own under `.cache/`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time

from environments import paths
from environments.pins import lock, set_up_docs, set_up_otel
from environments.programs import SetupError, say
from environments.with_vllm import DEFAULT_VERSION, VERSIONS, set_up_vllm


def main() -> int:
    parser = argparse.ArgumentParser(prog="setup", description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default=DEFAULT_VERSION)
    parser.add_argument("--otel-1.40", dest="otel", action="store_true")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--lock", action="store_true")
    asked = parser.parse_args()
    started = time.monotonic()
    try:
        if asked.version not in VERSIONS:
            raise SetupError(f"no pins for vLLM {asked.version}; there are {', '.join(VERSIONS)}")
        paths.CACHE.mkdir(exist_ok=True)
        with (paths.CACHE / "setup.lock").open("w") as held:
            # Two at once (a test run beside a demo) would install over each other.
            fcntl.flock(held, fcntl.LOCK_EX)
            if asked.lock:
                lock()
            elif asked.otel:
                set_up_otel()
            elif asked.docs:
                set_up_docs()
            else:
                set_up_vllm(asked.version, os.environ.get("TORCH_INDEX", ""))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on from here", file=sys.stderr)
        return 130
    took = time.monotonic() - started
    if took > 5:
        say(f"took {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m vllm_codesign.exporter SESSION`: started by the server, not by people."""

from __future__ import annotations

import sys
from pathlib import Path

from vllm_codesign.exporter.standby import keep


def main() -> int:
    if len(sys.argv) != 2:
        print(
            "usage: python -m vllm_codesign.exporter SESSION-FOLDER\n"
            "vLLM starts it by itself when the plugin is active",
            file=sys.stderr,
        )
        return 2
    return keep(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())

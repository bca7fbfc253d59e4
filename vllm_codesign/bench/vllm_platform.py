"""Which kind of device vLLM would serve on, asked of vLLM itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vllm_codesign.model.errors import CodesignError

_TIMEOUT_S = 180.0
_MARK = "codesign-device:"
# In a process of its own: importing it takes seconds and may initialize a device.
_QUESTION = (
    "from vllm.platforms import current_platform\n"
    f"print({_MARK!r}, current_platform.device_type, flush=True)\n"
)


def device_type(python: str | Path) -> str:
    """`cpu`, `cuda`, ... as the vLLM of `python`'s environment finds it; raises CodesignError."""
    try:
        asked = subprocess.run(
            [str(python), "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CodesignError(
            f"vLLM cannot be asked which device it uses ({error}): name a Python that has vLLM"
        ) from error
    # vLLM logs to stdout when it likes to.
    for line in asked.stdout.splitlines():
        if line.startswith(_MARK):
            return line.removeprefix(_MARK).strip()
    lines = [line.strip() for line in asked.stderr.splitlines() if line.strip()]
    raise CodesignError(
        f"vLLM cannot be asked which device it uses ({lines[-1] if lines else 'no answer'}): "
        "install it beside this command"
    )

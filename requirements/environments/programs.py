"""What is run, said and raised."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from . import paths


class SetupError(Exception):
    """What is wrong and what mends it, in one line."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run a command to its end; its own output is the explanation when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=paths.ROOT, env=env, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        # Only the program and its verb: the arguments may hold an index with credentials.
        program = f"{Path(words[0]).name} {words[1]}"
        raise SetupError(f"`{program}` failed with exit status {done.returncode}")


def succeeds(*command: object, env: dict[str, str] | None = None) -> bool:
    words = [str(word) for word in command]
    nothing = subprocess.DEVNULL
    done = subprocess.run(
        words, cwd=paths.ROOT, env=env, stdin=nothing, stdout=nothing, stderr=nothing, check=False
    )
    return done.returncode == 0


def digest(*parts: object) -> str:
    """Hash of strings and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()

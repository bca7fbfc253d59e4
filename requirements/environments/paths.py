"""Where things lie in the checkout. Read through the module, so that a test can move them."""

from __future__ import annotations

from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1]
ROOT = REQUIREMENTS.parent
CACHE = ROOT / ".cache"

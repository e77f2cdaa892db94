"""Imported first by the process that tests fork others from: nothing is garbage while it imports (tests.frozen)."""

from __future__ import annotations

import gc

gc.disable()

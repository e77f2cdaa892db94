"""Imported last by the process that tests fork others from (tests.forked): no garbage collection visits its objects.

A collection would copy the pages of 300,000 objects in each forked process. Forked processes collect as rarely as
tests do (tests/conftest.py).
"""

from __future__ import annotations

import gc

gc.freeze()
gc.enable()
gc.set_threshold(50_000, 20, 20)

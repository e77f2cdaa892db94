"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is slow now and then; time limits are pytest-timeout's business.
settings.register_profile("dessim", deadline=None)
settings.load_profile("dessim")

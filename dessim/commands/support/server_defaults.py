"""The dedicated servers of a projection that states none, for the command and for `dessim.project`."""

from __future__ import annotations

AUTO = "auto"
"""As many servers as the workers have hosts, as far as hosts are free."""
IDEAL = "ideal"
"""Servers on the workers' GPUs that answer at once: a lower bound."""
SERVER_DEVICE = "epyc-9654"
"""The device of a server, a name of the parts catalogue."""

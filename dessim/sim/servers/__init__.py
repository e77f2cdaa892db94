"""Parameter servers on dedicated hosts: requests queue and workers may run ahead."""

"""Several jobs on one cluster: they arrive, queue, share links and leave."""

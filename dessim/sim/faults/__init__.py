"""Link faults, stragglers, and node failures over a month."""

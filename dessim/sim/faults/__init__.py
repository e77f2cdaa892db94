"""What goes wrong in a run: link faults, stragglers, and failures over a month."""

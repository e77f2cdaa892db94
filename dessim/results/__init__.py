"""Results: metrics with their breakdown, tables, figures, timeline and report."""

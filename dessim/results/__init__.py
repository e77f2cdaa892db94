"""Results: metrics, tables, figures, timelines and the report."""

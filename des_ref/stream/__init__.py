"""Training on what never ends: rows are scored, then trained on, as they come.

lines.py or drift.py --> reader.py --> feed.py --> the pipeline --> run.py --> report.py
rows of text, or made    read ahead     all workers  steps            scores.py  terminal, JSONL, TensorBoard
"""

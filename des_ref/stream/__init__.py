"""Training on an endless stream: each row is scored, then trained on, as it arrives.

lines.py or drift.py --> reader.py --> feed.py --> the pipeline --> run.py --> report.py
text, or generated rows   read ahead     all workers  steps            scores.py  terminal, JSONL, TensorBoard
"""

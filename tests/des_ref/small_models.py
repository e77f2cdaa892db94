"""Parts of small model files that several tests train."""

THREE_TABLES = """
[[tables]]
rows = 3000
ids = 3.0
[[tables]]
rows = 40
skew = 0.5
[[tables]]
rows = 500
ids = 1.5
offset = 2.0
"""

DIFFERENT_WIDTHS = """
schema_version = 2
name = "different widths"
[input]
batch_per_worker = 64
[embedding]
width = 8
{embedding}
[[tables]]
rows = 3000
ids = 3.0
[[tables]]
rows = 40
skew = 0.5
width = 4
[[tables]]
rows = 500
ids = 1.5
offset = 2.0
width = 16
[[tables]]
rows = 90
ids = 0.8
width = 4
"""

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

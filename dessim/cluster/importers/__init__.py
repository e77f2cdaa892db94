"""Readers of cluster descriptions in other formats, one format a file."""

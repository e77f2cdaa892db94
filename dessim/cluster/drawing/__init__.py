"""Drawings of clusters as SVG."""

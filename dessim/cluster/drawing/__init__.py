"""Drawings of clusters as SVG, optionally coloured by how busy the links were in a run."""

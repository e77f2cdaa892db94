"""HTML pages: one builder, and a list of sections for each command that writes a page."""

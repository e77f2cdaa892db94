"""The documentation site: Sphinx extensions that keep the Markdown pages readable on their own."""

"""Sphinx settings of the documentation site: `make docs` writes it to build/site.

The source folder is the repository, because pages link to studies, topologies and the README.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "dessim"
html_title = "dessim"
root_doc = "docs/README"
source_suffix = {".md": "markdown"}
include_patterns = ["*.md", "docs/**.md", "studies/*/README.md", "topologies/README.md"]
exclude_patterns = [".*", "build", "dist", "demo-out", "gpu-out", "out", "dessim", "des_ref", "tests"]

extensions = [
    "myst_parser",
    "website.command_pages",
    "website.consoles",
    "website.navigation",
    "website.linked_files",
    "website.terms",
    "website.accessible",
    "website.checks",
]
myst_heading_anchors = 4
highlight_language = "none"
suppress_warnings = ["epub.unknown_project_files"]

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": False}

# Only `make docs LINKS=1` uses these: links to other pages and files are checked in every build, without a network.
linkcheck_ignore = [r"(?!https?:)"]
linkcheck_timeout = 20

"""The documentation site, built once as `make docs` builds it: no warning, no dead link, terms and commands linked."""

from __future__ import annotations

import re
import shlex
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.forked import run_forked

pytest.importorskip("furo", reason="the site needs the dependency group docs")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

from website.checks import dead_links
from website.navigation import contents
from website.terms import anchor_of, terms_of

ROOT = Path(__file__).resolve().parents[1]


def build(source: Path, out: Path) -> tuple[int, str]:
    """The exit code and the messages of `make docs`, with another source folder and output."""
    (flags,) = re.findall(r"^SPHINX *= \$\(BIN\)/python (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = shlex.split(flags.replace("build/doctrees", str(out.with_suffix(".doctrees"))))
    done = run_forked([sys.executable, *words, str(source), str(out)], cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    assert build(ROOT, out) == (0, "")
    return out


@pytest.mark.slow
@pytest.mark.torch
def test_every_page_is_built_and_every_link_leads_somewhere(site: Path) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*/README.md")]
    for page in pages:
        assert (site / page.relative_to(ROOT).with_suffix(".html")).is_file(), page
    assert dead_links(site) == []
    assert "docs/README.html" in (site / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.torch
def test_the_sidebar_has_every_page_once(site: Path) -> None:
    front = (site / "docs" / "README.html").read_text()
    tree = front[front.index('class="sidebar-tree"') : front.index("</aside>")]
    captions = re.findall(r'class="caption-text">([^<]+)<', tree)
    assert captions[:5] == ["Start", "Tutorials", "How-to", "Reference", "Trust"]
    linked = re.findall(r'class="reference internal" href="([^"#]+)"', tree)
    assert len(linked) == len(set(linked)) > 40


@pytest.mark.slow
@pytest.mark.torch
def test_terms_link_to_the_glossary(site: Path) -> None:
    glossary = (site / "docs" / "glossary.html").read_text()
    for term in terms_of((ROOT / "docs" / "glossary.md").read_text()):
        assert f'id="{anchor_of(term)}"' in glossary, term
    page = (site / "docs" / "parameter_servers.html").read_text()
    links = re.findall(r'class="term reference external" href="(\S+)" title="[^"]+">([^<]+)<', page)
    assert ("glossary.html#term-worker", "workers") in links
    assert len(links) == len(set(links)) >= 5


@pytest.mark.slow
@pytest.mark.torch
def test_the_reference_has_the_help_of_every_command(site: Path) -> None:
    page = unescape(re.sub(r"<[^>]+>", "", (site / "docs" / "commands.html").read_text()))
    for text in ("dessim topo import", "--compute", "dessim project", "--what-if", "des_ref.train", "--trace-warmup"):
        assert text in page


def test_a_page_in_no_section_and_a_dead_link_fail_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    (docs / "README.md").write_text("# Index\n\n## Start\n\n- [Terms](glossary.md)\n")
    (docs / "glossary.md").write_text("# Glossary\n\nSee [nothing](missing.md) and [no heading](README.md#missing).\n")
    (docs / "lost.md").write_text("# Lost\n")
    code, said = build(tmp_path / "source", tmp_path / "site")
    assert code == 1
    assert "missing.md" in said and "'missing'" in said and "lost.md: WARNING: document isn't included" in said


def test_a_dead_link_of_the_built_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#here"></a><a href="b.html#there"></a><img src="c.svg">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here">a</a><a href="https://example.org/x">x</a>')
    assert dead_links(tmp_path) == ["a.html: b.html#there", "a.html: c.svg"]


def test_the_sidebar_prefers_the_place_that_names_a_page() -> None:
    index = (
        "## How-to\n\nSee [that](a.md) and [this](b.md#part).\n\n## Reference\n\n- [Page A](a.md): text, [b](b.md)\n"
    )
    head = "```{toctree}\n:hidden:\n:caption: "
    assert contents(index) == f"{head}How-to\n\nb\n```\n\n{head}Reference\n\nPage A <a>\n```\n"

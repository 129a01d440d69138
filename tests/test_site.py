"""The documentation as a site: its pages, what it loads, and that defects end its build."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra docs")
pytest.importorskip("mkdocstrings", reason="the site needs the extra docs")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\b(?:src|srcset)=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//|@import\s+["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
    r"""|(?:import|importScripts|fetch)\(["'](?:https?:)?//""",
    re.IGNORECASE,
)
_LIST_OR_TABLE = re.compile(r"\n *(?:[-*]|\d+\.|\|.*\|) ")  # in a paragraph: GitHub shows one, the site does not


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", root / "mkdocs.yml"]
    return subprocess.run([*command, "--site-dir", site], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_each_document_is_a_page(site):
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")}
    names = {file.relative_to(ROOT).with_suffix(".html").as_posix() for file in documents}
    assert pages == {"404.html", "search.html", "index.html"} | names - {"README.html"}
    assert (site / "experiments/configs/pretrain_quickstart.py").is_file()  # README links to it
    for page in pages:
        for paragraph in re.findall(r"<p>(.*?)</p>", (site / page).read_text(), re.DOTALL):
            assert not _LIST_OR_TABLE.search(paragraph), (page, paragraph)


def test_docstrings_are_in_the_pages(site):
    for page, name in (
        ("pixelbert_jax", "pixelbert_jax.predictor.Predictor.attention_map"),
        ("data_pipelines", "data_pipelines.config.DataConfig"),
        ("experiments", "experiments.tasks.recipe.Recipe.check"),
    ):
        assert f'id="{name}"' in (site / f"docs/api/{page}.html").read_text()


def test_nothing_is_loaded_from_other_hosts(site):
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css", ".js")]
    assert len(files) > 15
    for file in files:
        assert not _ELSEWHERE.findall(file.read_text()), file
    for loaded in (
        '<script async src="https://a.b/c.js"></script>',
        '<link rel="stylesheet" href="//a.b/c.css">',
        '<img alt="" src="http://a.b/c.png">',
        "@import 'https://a.b/c.css'",
        "src: url(https://a.b/c.woff2)",
    ):
        assert _ELSEWHERE.search(loaded)
    assert not _ELSEWHERE.search('<a href="https://a.b">')


def test_defects_end_the_build(tmp_path):
    """A broken link, anchor or reference, and a page that no menu names; without them the build passes."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config | {"nav": ["README.md", "docs/a.md"]}))
    (tmp_path / "docs").mkdir()
    for name in ("hooks.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    (tmp_path / "README.md").write_text("# R\n[a](docs/a.md#title) [config](mkdocs.yml)\n")
    (tmp_path / "docs" / "a.md").write_text("# Title\n[start](../README.md)\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    (tmp_path / "README.md").write_text("# R\n[a](docs/a.md#no_title) [b](docs/none.md)\n[c][pixelbert_jax.none]\n")
    (tmp_path / "docs" / "b.md").write_text("# Unlisted\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    for defect in ("#no_title", "docs/none.md", "pixelbert_jax.none", "docs/b.md"):
        assert defect in built.stderr

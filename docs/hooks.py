"""Gives the site the repository's layout, so that a link works in both: README.md, docs/ and what they link to."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\(([^)#:\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and the repository's by their paths in it."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    own = {root / "README.md", *(file for file in docs.rglob("*") if file.suffix not in (".py", ".pyc"))}
    for page in [file for file in own if file.suffix == ".md"]:
        own |= {(page.parent / link).resolve() for link in _LINK.findall(page.read_text())}
    theme = [file for file in files if not Path(file.abs_src_path).is_relative_to(docs)]
    paths = sorted(file for file in own if file.is_file() and file.is_relative_to(root))
    return Files(
        theme + [File.generated(config, str(path.relative_to(root)), abs_src_path=str(path)) for path in paths]
    )

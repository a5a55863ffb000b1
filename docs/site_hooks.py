"""Hooks of ``mkdocs build``: pages from the repository's root become part of the site, and links to them are adjusted.

Links in the Markdown files are those that work on GitHub. In the site, a link to a page of ``ROOT_PAGES`` leads to its
copy, and a link to another file of the repository (LICENSE, source code) becomes plain text. A link to a file that does
not exist stays as it is, and ``--strict`` reports it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "README_Vicuna.md")
LINK = re.compile(r"(?P<label>!?\[[^\]]*\])\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Adjust the links of one page."""
    uri = page.file.src_uri
    source = uri if uri in ROOT_PAGES else f"docs/{uri}"
    return LINK.sub(lambda match: _adjusted(match, source, uri), markdown)


def _adjusted(match: re.Match[str], source: str, uri: str) -> str:
    """Return one link for the site. ``source`` is the page's path in the repository, ``uri`` its path in the site."""
    target = match["target"]
    if "://" in target or target.startswith("mailto:"):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path == "README.md":
        path = "docs/index.md"
    if path in ROOT_PAGES or (path.startswith("docs/") and (ROOT / path).is_file()):
        relative = posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(uri) or ".")
        return f"{match['label']}({relative}{match['anchor'] or ''})"
    return match["label"][1:-1] if (ROOT / path).exists() else match[0]

"""Puts the pages of the site into one folder, and the site's configuration beside it.

What is written for readers of the repository stays where they look for it (``README.md`` of a chart, ``CHANGELOG.md``); here it
becomes a page among the others. A link to a file of the repository that is no page leads to a page that shows the file.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import yaml

from docsite import mermaid, reference

ROOT: Final = Path(__file__).parents[2]

#: Pages that stand outside of ``docs/``, by their path in the repository.
ELSEWHERE: Final[Mapping[str, str]] = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "charts/storageformat-operator/README.md": "reference/chart-operator.md",
    "charts/storageformat-sidecar/README.md": "reference/chart-sidecar.md",
    "examples/plugin/README.md": "example-plugin.md",
    "README.md": "readme.md",
}
#: Files of the repository that a generated page is about: on the site a link to the file leads to the page.
STANDS_FOR: Final[Mapping[str, str]] = {
    "deploy/crds/storageformats.yaml": "reference/storageformat.md",
    "deploy/crds/formatstates.yaml": "reference/formatstate.md",
    "deploy/rbac.yaml": "reference/permissions.md",
    "deploy/controller-rbac.yaml": "reference/permissions.md",
    "deploy/webhook-rbac.yaml": "reference/permissions.md",
    "deploy/admission-policy.yaml": "reference/permissions.md",
}
#: Below this are the pages that show a file; they are in no menu and in no search.
SOURCES: Final = "source"
ALL_OTHERS: Final = "*"

_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<after>(?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".md": "md"}


class BrokenLinkError(Exception):
    """A page links to something that is not there."""


class UnlistedPageError(Exception):
    """The menu names a page that is not there."""


class Stage:
    """The site's pages, by their path among them."""

    def __init__(self, root: Path = ROOT, generated: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._pages: dict[str, str] = {}
        self._assets: dict[str, Path] = {}
        self._wanted: dict[str, str] = {}
        self._collect(reference.pages() if generated is None else generated)

    @property
    def pages(self) -> Mapping[str, str]:
        """Markdown by path; what is only linked to and shown is below ``source/``."""
        return self._pages

    def menu(self) -> list[Any]:
        """The ``nav`` of ``mkdocs.yml`` with its patterns replaced by pages. Raises UnlistedPageError."""
        text = (self.root / "mkdocs.yml").read_text(encoding="utf-8")
        configured = yaml.load(text, Loader=_Lenient)["nav"]  # noqa: S506 # it makes nothing of tags
        named = set(_named(configured))
        for path in sorted(named - {ALL_OTHERS}):
            if "*" not in path and path not in self._pages:
                raise UnlistedPageError(f"mkdocs.yml: the nav names {path}, which is no page")
        for pattern in [one for one in named if "*" in one and one != ALL_OTHERS]:
            named |= {page for page in self._pages if fnmatch(page, pattern)}
        rest = [
            page
            for page in sorted(self._pages)
            if page not in named and not page.startswith(f"{SOURCES}/")
        ]
        return list(self._expanded(configured, rest))

    def write(self, folder: Path) -> None:
        """Write ``folder/pages`` and ``folder/mkdocs.yml``; what is as it should be is not written again."""
        pages = folder / "pages"
        texts: dict[str, str | bytes] = {
            f"pages/{path}": text for path, text in self._pages.items()
        }
        texts |= {f"pages/{path}": source.read_bytes() for path, source in self._assets.items()}
        if any(_has_diagrams(text) for text in self._pages.values()):
            texts["pages/assets/mermaid.min.js"] = mermaid.script().read_bytes()
        texts["mkdocs.yml"] = self._configuration(folder)
        for path, content in texts.items():
            data = content.encode() if isinstance(content, str) else content
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file() or file.read_bytes() != data:
                file.write_bytes(data)
        for file in [one for one in pages.rglob("*") if one.is_file()]:
            if str(file.relative_to(folder)) not in texts:
                file.unlink()

    # --- pages ------------------------------------------------------------------------------------------------

    def _collect(self, generated: Mapping[str, str]) -> None:
        docs = self.root / "docs"
        repository: dict[str, str] = {}
        for file in sorted(docs.rglob("*")):
            path = str(file.relative_to(docs))
            if file.suffix == ".md":
                repository[f"docs/{path}"] = path
            elif file.is_file():
                self._assets[path] = file
        repository |= {
            source: page for source, page in ELSEWHERE.items() if (self.root / source).is_file()
        }
        # Pages that are made link to one another as if they stood in docs/.
        placed = repository | dict(STANDS_FOR) | {f"docs/{page}": page for page in generated}
        for source, page in repository.items():
            text = (self.root / source).read_text(encoding="utf-8")
            linked = _with_plain_pipes(self._linked(text, source, page, placed))
            self._pages[page] = _with_diagrams(linked)
        for page, text in generated.items():
            self._pages[page] = self._linked(text, f"docs/{page}", page, placed)
        for source, page in self._wanted.items():
            place = self.root / source
            self._pages[page] = (
                _listing(place)
                if place.is_dir()
                else _showing(source, place.read_text(encoding="utf-8"))
            )

    def _linked(self, text: str, source: str, page: str, placed: Mapping[str, str]) -> str:
        """The text with its links leading to where things are on the site."""

        def replaced(match: re.Match[str]) -> str:
            target = match["target"]
            if _SCHEME.match(target):
                return match[0]
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            led = placed.get(path) or self._asset(path) or self._shown(path)
            if led is None:
                raise BrokenLinkError(f"{source}: there is no {target}")
            relative = posixpath.relpath(led, posixpath.dirname(page) or ".")
            return f"{match['before']}{relative}{match['after']}"

        return "".join(
            part if is_code else _LINK.sub(replaced, part) for part, is_code in _parts(text)
        )

    def _asset(self, path: str) -> str | None:
        inside = path.removeprefix("docs/")
        return inside if path.startswith("docs/") and inside in self._assets else None

    def _shown(self, path: str) -> str | None:
        """The page that shows a file of the repository, or what a folder of docs/ holds."""
        if (self.root / path).is_file():
            page = f"{SOURCES}/{path}.md"
        elif path.startswith("docs/") and (self.root / path).is_dir():
            page = f"{path.removeprefix('docs/')}/index.md"
        else:
            return None
        self._wanted[path] = page
        return page

    # --- configuration ----------------------------------------------------------------------------------------

    def _expanded(self, entries: list[Any], rest: list[str]) -> Iterator[Any]:
        for entry in entries:
            if isinstance(entry, Mapping):
                ((title, below),) = entry.items()
                if isinstance(below, list):
                    inner = list(self._expanded(below, rest))
                    if inner:
                        yield {title: inner}
                else:
                    yield entry
            elif entry == ALL_OTHERS:
                yield from rest
            elif "*" in entry:
                found = [page for page in self._pages if fnmatch(page, entry)]
                yield from sorted(found, key=lambda page: (not page.endswith("/index.md"), page))
            else:
                yield entry

    def _configuration(self, folder: Path) -> str:
        return yaml.safe_dump(
            {
                "INHERIT": os.path.relpath(self.root / "mkdocs.yml", folder),
                "docs_dir": "pages",
                "site_dir": "site",
                "theme": {
                    "custom_dir": os.path.relpath(self.root / "devtools/docsite/theme", folder)
                },
                "nav": self.menu(),
            },
            sort_keys=False,
            allow_unicode=True,
        )


class _Lenient(yaml.SafeLoader):
    """Reads mkdocs.yml without running what its tags name."""


_Lenient.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _named(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, Mapping):
            for below in entry.values():
                yield from _named(below if isinstance(below, list) else [below])
        else:
            yield entry


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is a block of code: what looks like a link there is none."""
    at = 0
    for fence in _FENCE.finditer(text):
        yield text[at : fence.start()], False
        yield fence[0], True
        at = fence.end()
    yield text[at:], False


def _with_plain_pipes(text: str) -> str:
    """In a cell's code GitHub wants a pipe escaped; here code is code, and the backslash would be seen."""
    return "".join(
        part if is_code else _ROW.sub(lambda row: _CODE.sub(_unescaped, row[0]), part)
        for part, is_code in _parts(text)
    )


def _unescaped(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")


def _has_diagrams(text: str) -> bool:
    return "\n```mermaid\n" in text


def _with_diagrams(text: str) -> str:
    """Only pages with diagrams load the library that draws them, the largest file of the site. Each gets a frame to scroll in."""
    if not _has_diagrams(text):
        return text
    framed = _DIAGRAM.sub('<div class="diagram" markdown="1">\n\n\\g<0>\n\n</div>', text)
    return f"---\ndiagrams: true\n---\n\n{framed}"


def _showing(source: str, text: str) -> str:
    language = _LANGUAGES.get(Path(source).suffix, "text")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    return (
        f"---\nsearch:\n  exclude: true\n---\n\n# {source}\n\n"
        f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
    )


def _listing(folder: Path) -> str:
    """The pages of a folder without a page of its own, by their titles."""
    lines = [f"# {folder.name.capitalize()}\n"]
    for file in sorted(folder.glob("*.md")):
        title = re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        lines.append(f"- [{title[1] if title else file.stem}]({file.name})")
    return "\n".join(lines) + "\n"


def clean(folder: Path) -> None:
    """Remove what an earlier build left."""
    shutil.rmtree(folder, ignore_errors=True)

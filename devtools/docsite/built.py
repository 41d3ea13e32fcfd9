"""What must be true of the built site: every link and anchor leads somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that make a browser load something by itself.
_LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
#: Relations of <link> that load nothing.
_SAYS_ONLY = {"canonical", "prev", "next", "alternate", "edit"}


@dataclass
class Page:
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in ("id", "name"):
            if name in given and tag != "meta":
                self.page.anchors.add(given[name])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        elif tag == "link" and set(given.get("rel", "").split()) & _SAYS_ONLY:
            return
        elif tag in _LOADS and _LOADS[tag] in given:
            self.page.loads.append(given[_LOADS[tag]])


def pages(site: Path) -> dict[str, Page]:
    """Every HTML file of the site by its path in it."""
    found = {}
    for file in sorted(site.rglob("*.html")):
        reader = _Reader()
        reader.feed(file.read_text(encoding="utf-8"))
        found[str(file.relative_to(site))] = reader.page
    return found


def complaints(site: Path) -> Iterator[str]:
    """What is wrong with the site; nothing when all is well."""
    known = pages(site)
    for path, page in known.items():
        for target in page.loads:
            if urlsplit(target).netloc:
                yield f"{path}: a browser would load {target}"
            elif (why := _broken(site, known, path, target)) is not None:
                yield f"{path}: loads {target}: {why}"
        for target in page.links:
            if not urlsplit(target).scheme and (why := _broken(site, known, path, target)):
                yield f"{path}: links to {target}: {why}"


def _broken(site: Path, known: dict[str, Page], path: str, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme == "data":
        return None
    if path == "404.html" or parts.path.startswith("/"):
        # Served at whatever address: such a page links from the root.
        led = parts.path.lstrip("/")
    else:
        led = posixpath.join(posixpath.dirname(path), unquote(parts.path)) if parts.path else path
    led = posixpath.normpath(led) if led else "."
    if (site / led).is_dir():
        led = posixpath.normpath(posixpath.join(led, "index.html"))
    if not (site / led).is_file():
        return "there is no such file"
    if parts.fragment and led in known and unquote(parts.fragment) not in known[led].anchors:
        return "the page has no such anchor"
    return None

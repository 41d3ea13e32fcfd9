"""``python -m docsite build | serve | stage | mermaid | messages``: the documentation's site, in ``build/docs``.

``messages`` prints the texts of errors that the two pages about them lack, or have and the sources have not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

from docsite import built, mermaid, messages
from docsite.stage import ROOT, BrokenLinkError, Stage, UnlistedPageError, clean

FOLDER = ROOT / "build" / "docs"
_EVERY_SECONDS = 1.0


def _mkdocs(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mkdocs", *arguments, "--config-file", str(FOLDER / "mkdocs.yml")]


def _environment() -> dict[str, str]:
    # The theme's word about another generator, on every build; docs/decisions.md has ours.
    return os.environ | {"NO_MKDOCS_2_WARNING": "1"}


def build() -> int:
    clean(FOLDER)
    Stage().write(FOLDER)
    done = subprocess.run(_mkdocs("build", "--strict", "--quiet"), env=_environment(), check=False)
    if done.returncode != 0:
        return done.returncode
    wrong = list(built.complaints(FOLDER / "site"))
    for one in wrong:
        print(one, file=sys.stderr)
    count = len(list((FOLDER / "site").rglob("*.html")))
    if not wrong:
        print(f"{count} pages in {FOLDER.relative_to(ROOT)}/site: every link leads somewhere")
    return 1 if wrong else 0


def compare_messages() -> int:
    known = messages.texts()
    told = [
        text
        for page in messages.PAGES
        for text in messages.documented((ROOT / page).read_text(encoding="utf-8"))
    ]
    wrong = [f"not told: {text}  ({place})" for text, place in known.items() if text not in told]
    wrong += [f"no such message: {text}" for text in told if text not in known]
    wrong += [f"told twice: {text}" for text in dict.fromkeys(told) if told.count(text) > 1]
    print("\n".join(wrong) or "every message is told once")
    return 1 if wrong else 0


def serve(address: str) -> int:
    """Serve on ``address``; what is changed in ``docs/`` is shown within a second or two."""
    Stage().write(FOLDER)
    ended = threading.Event()
    threading.Thread(target=_follow, args=(ended,), daemon=True).start()
    try:
        command = _mkdocs("serve", "--dev-addr", address)
        return subprocess.run(command, env=_environment(), check=False).returncode
    except KeyboardInterrupt:
        return 0
    finally:
        ended.set()


def _follow(ended: threading.Event) -> None:
    while not ended.wait(_EVERY_SECONDS):
        try:
            Stage().write(FOLDER)
        except (BrokenLinkError, UnlistedPageError, OSError) as error:
            print(error, file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docsite")
    parser.add_argument("what", choices=("build", "serve", "stage", "mermaid", "messages"))
    parser.add_argument("--address", default="127.0.0.1:8000", help="of serve (%(default)s)")
    given = parser.parse_args(arguments)
    if given.what == "messages":
        return compare_messages()
    try:
        if given.what == "build":
            return build()
        if given.what == "serve":
            return serve(given.address)
        if given.what == "mermaid":
            print(mermaid.script())
            return 0
        Stage().write(FOLDER)
    except (BrokenLinkError, UnlistedPageError, mermaid.MermaidUnavailableError) as error:
        print(f"docsite: {error}", file=sys.stderr)
        return 1
    print(Path(os.path.relpath(FOLDER / "pages")))
    return 0


if __name__ == "__main__":
    sys.exit(main())

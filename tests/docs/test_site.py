"""The documentation's site: its pages, its menu, and what is made from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from docsite import built, mermaid, reference
from docsite.stage import ELSEWHERE, ROOT, SOURCES, STANDS_FOR, BrokenLinkError, Stage
from format_operator.api import crds
from format_operator.kubectl import app as kubectl
from tests.support.shown import Command, consoles, differs


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


def named(entries: list[object]) -> list[str]:
    found = []
    for entry in entries:
        if isinstance(entry, dict):
            for below in entry.values():
                found += named(below if isinstance(below, list) else [below])
        else:
            found.append(str(entry))
    return found


def test_every_page_is_in_the_menu_once(stage: Stage) -> None:
    """No page can be reached only by those who know its name."""
    menu = named(stage.menu())
    pages = [page for page in stage.pages if not page.startswith(f"{SOURCES}/")]
    assert sorted(menu) == sorted(pages)


def test_every_document_is_a_page(stage: Stage) -> None:
    """All of docs/, and what stands elsewhere for readers of the repository."""
    docs = [str(one.relative_to(ROOT / "docs")) for one in (ROOT / "docs").rglob("*.md")]
    assert set(docs) | set(ELSEWHERE.values()) <= set(stage.pages)
    for source in (*ELSEWHERE, *STANDS_FOR):
        assert (ROOT / source).is_file(), source


def anchors(text: str) -> set[str]:
    """Of a Markdown page, as the site makes them of its headings."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    slugs: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_code, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        slugs.add(re.sub(r"[-\s]+", "-", plain))
    return slugs


def test_every_link_and_anchor_leads_somewhere(stage: Stage) -> None:
    """Between all pages, generated ones and those of single files included."""
    for page, text in stage.pages.items():
        prose = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            led = str((Path("/") / Path(page).parent / path).resolve())[1:] if path else page
            if not led.endswith(".md"):
                assert (ROOT / "docs" / led).is_file(), (page, target)
                continue
            assert led in stage.pages, (page, target)
            if anchor:
                assert anchor in anchors(stage.pages[led]), (page, target)


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """The page and the target are named."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[there](missing.md)\n")
    with pytest.raises(BrokenLinkError, match=r"docs/index\.md: there is no missing\.md"):
        Stage(tmp_path, generated={})


def test_a_folder_is_a_page_that_lists_its_pages(tmp_path: Path) -> None:
    """A link to a folder of docs/ leads to them by their titles; the pattern in the menu finds all of them."""
    (tmp_path / "docs" / "runbooks").mkdir(parents=True)
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[all](runbooks)\n")
    (tmp_path / "docs" / "runbooks" / "Stuck.md").write_text("# It is stuck\n")
    (tmp_path / "mkdocs.yml").write_text("nav: [index.md, {Runbooks: ['runbooks/*.md']}, '*']\n")
    stage = Stage(tmp_path, generated={"reference/made.md": "# Made\n"})
    assert "[all](runbooks/index.md)" in stage.pages["index.md"]
    assert stage.pages["runbooks/index.md"] == "# Runbooks\n\n- [It is stuck](Stuck.md)\n"
    assert stage.menu() == [
        "index.md",
        {"Runbooks": ["runbooks/index.md", "runbooks/Stuck.md"]},
        "reference/made.md",
    ]


def test_a_pipe_in_code_is_seen_as_one(tmp_path: Path) -> None:
    """GitHub's tables want it escaped, also in code; the site's would show the backslash."""
    (tmp_path / "docs").mkdir()
    table = "# T\n\n| a | b |\n|---|---|\n| `x\\|y` | one \\| two |\n\n```text\n| `x\\|y` |\n```\n"
    (tmp_path / "docs" / "index.md").write_text(table)
    page = Stage(tmp_path, generated={}).pages["index.md"]
    assert "| `x|y` | one \\| two |" in page
    assert "```text\n| `x\\|y` |\n```" in page


def test_the_built_site_is_checked(tmp_path: Path) -> None:
    """A file or an anchor that is not there, and anything that a browser would load from elsewhere."""
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="a/#there">1</a><a href="a/#nowhere">2</a><a href="b/">3</a>'
        '<a href="https://example.org/">4</a><a href="#top">5</a>'
        '<script src="https://example.org/x.js"></script><img src="a/pic.png">'
        '<link rel="canonical" href="https://example.org/">'
    )
    (tmp_path / "a" / "index.html").write_text('<h2 id="there">y</h2><a href="..">up</a>')
    assert list(built.complaints(tmp_path)) == [
        "index.html: a browser would load https://example.org/x.js",
        "index.html: loads a/pic.png: there is no such file",
        "index.html: links to a/#nowhere: the page has no such anchor",
        "index.html: links to b/: there is no such file",
    ]


def collect(schema: dict[str, Any], fields: set[str], rules: set[str]) -> None:
    rules.update(rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
    for name, below in schema.get("properties", {}).items():
        fields.add(name)
        collect(below, fields, rules)
    if "items" in schema:
        collect(schema["items"], fields, rules)


def test_every_field_and_rule_is_in_the_reference(stage: Stage) -> None:
    """Whatever the API server knows of an object stands on its page: fields, and the messages of its rules."""
    for crd in (crds.storageformat_crd(), crds.formatstate_crd()):
        page = stage.pages[f"reference/{crd['spec']['names']['singular']}.md"]
        (version,) = crd["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        fields: set[str] = set()
        rules: set[str] = set()
        for top in ("spec", "status"):
            collect(schema["properties"][top], fields, rules)
        assert len(fields) > 10
        assert set(re.findall(r"^\| `(\w+)` \| ", page, re.MULTILINE)) >= fields
        for rule in rules:
            assert rule.replace("<", "&lt;") in page


def test_every_command_and_option_is_in_the_reference(stage: Stage) -> None:
    """What `--help` of each command shows; commands that are processes of their own included."""
    page = stage.pages["reference/cli.md"]
    sections = dict(re.findall(r"^## `(.+?)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    expected = {
        "inspect",
        "plan",
        "convert",
        "verify",
        "recover",
        "undo",
        "backups list",
        "sidecar",
    }
    assert {f"storageformat {one}" for one in expected} <= set(sections)
    for name, section in sections.items():
        done = subprocess.run(
            [sys.executable, "-m", "format_operator", *name.split()[1:], "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        # A metavar may begin with dashes' neighbours; an option stands at the beginning of its line.
        shown = set(re.findall(r"^  (?:-\w(?: \S+)?, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
        for option in shown - {"--help"}:
            assert f"`{option}" in section, (name, option)


def test_every_command_of_the_plugin_is_in_the_reference(stage: Stage) -> None:
    """With the options of its own; kubectl's are kubectl's."""
    page = stage.pages["reference/kubectl.md"]
    for name, _, _ in kubectl.COMMANDS:
        assert f"## `{kubectl.PROGRAM} {name}`" in page
    assert "`--rehearse`" in page
    assert "--client-key" not in page


def test_the_exit_codes_of_the_reference(stage: Stage) -> None:
    """Each code with every reason that ends with it."""
    page = stage.pages["reference/exit-codes.md"]
    for kind in reference.all_errors()[1:]:
        (line,) = re.findall(rf"^\| {kind.exit_code} \|.*$", page, re.MULTILINE)
        assert f"[`{kind.__name__}`](../errors.md#{kind.__name__.lower()})" in line


def test_only_pages_with_diagrams_load_the_library(stage: Stage) -> None:
    """It is megabytes; a page without a diagram says nothing of it."""
    for page, text in stage.pages.items():
        assert text.startswith("---\ndiagrams: true\n") == ("\n```mermaid\n" in text), page


def test_nothing_is_loaded_from_elsewhere() -> None:
    """No fonts, no CDN: the configuration says so, and the pages' policy forbids it to the theme."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    configured = yaml.safe_load(re.sub(r"!!python/\S+", "", text))
    assert configured["theme"]["font"] is False
    assert "//" not in "".join(configured["extra_css"])
    policy = (ROOT / "devtools/docsite/theme/main.html").read_text(encoding="utf-8")
    assert "default-src 'self'" in policy
    assert "http:" not in policy
    assert "https:" not in policy


def test_another_library_than_the_expected_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the registry gives is compared with the digest in the repository before it is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(mermaid, "_packed", lambda: b"something else")
    with pytest.raises(mermaid.MermaidUnavailableError, match="is not the one that is expected"):
        mermaid.script()
    assert not list(tmp_path.rglob("*.js"))


def test_what_a_tutorial_shows_is_compared() -> None:
    """Blanks count as one, `…` for anything, a line of `…` for any lines; what is not shown is a difference."""
    page = (
        "```console\n$ first -x\na   b\nc …\n$ second\n```\n\n```console\n$ third\n…\nlast\n```\n"
    )
    assert consoles(page) == [
        Command("first -x", "a   b\nc …\n"),
        Command("second", ""),
        Command("third", "…\nlast\n"),
    ]
    assert differs("a   b\nc …\n", "a b\nc whatever it is\n") is None
    assert differs("a   b\nc …\n", "a b\n") == "not said: c …"
    assert differs("a b\n", "a b\nmore\n") == "not shown: more"
    assert differs("a b\n", "other\na b\n") == "not said: a b"
    assert differs("…\nlast\n", "1\n2\nlast\n") is None
    assert differs("first\n…\n", "first\nand\nmore\n") is None
    assert differs("", "anything\n") is None


def test_the_tests_that_the_threat_model_names_exist() -> None:
    """Each defence is shown by a test that is there."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", text)
    assert len(named) > 15
    for file, name in named:
        assert re.search(rf"def {name}\b", (ROOT / file).read_text(encoding="utf-8")), (file, name)
    rows = re.findall(r"^\| .+ \| .+ \| (.*) \|$", text[text.index("| threat |") :], re.MULTILINE)
    assert all(row.startswith("`tests/") for row in rows[1:])


def test_the_files_that_the_upgrade_policy_names_exist() -> None:
    """Its table of checks is true."""
    text = (ROOT / "docs" / "upgrades.md").read_text(encoding="utf-8")
    found = re.findall(r"`(tests/\S+?\.py)`", text)
    assert len(found) >= 4
    for file in found:
        assert (ROOT / file).is_file(), file

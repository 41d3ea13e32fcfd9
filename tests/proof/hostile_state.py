"""State directories in which something was damaged between a kill and the recovery: every field of every file.

A conversion, or a restoration, is killed at a failpoint. Then the manifest, the history or the sidecar's document is
changed, or a file of the work directory is swapped, cut or taken away; sometimes the database is gone as well, so that
the pre-image is the only good copy. Recovery ends it, or refuses and leaves every file where a person finds it.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    errors,
    history,
    inspect,
    list_backups,
    prune_backups,
    recover,
    restore_backup,
    state_file,
)  # fmt: skip
from format_store.layout import Layout
from tests.proof.hostile_case import RECORDS, Case, attempt, identity, plant_victim
from tests.support.databases import marker_of, read_table

HIERARCHICAL: Final = Format.sqlitedict(key_encoding="hierarchical")
STAGES: Final = (
    "prepare.after-directory", "prepare.after-manifest", "build.after-staging", "verify.after", "verify.after-ready",
    "swap.before-preimage", "swap.after-preimage", "swap.before-rename", "swap.after-rename", "swap.after-fsync",
    "cleanup.before-delete-preimage", "cleanup.after-delete-preimage", "cleanup.before-clear",
)  # fmt: skip
OTHER_ID: Final = "20200101T000000Z-01234567"
#: What a field is given. ``{victim}`` is a path of somebody else's.
WRONG: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2, 3, 1e308, float("inf"), float("nan"), 2**63, -(2**63), 10**400, "", "x", "\0", "\ud800", "../../victim/secret",
    "/", "{victim}", "..", OTHER_ID, "x" * 100_000, [], {}, [[]], {"a": 1}, [1, 2], "sha256:" + "0" * 64, "sha256:", "sha256:" + "g" * 64,
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-13-01T00:00:00Z", "building", "ready", {"sqlitedict": {}}, {"sqlite": {}},
    {"sqlite": {"migrationsFrom": {"folder": "/"}}}, {"sqlitedict": {"tables": ["../x"]}}, {"inode": 1, "size": -1, "mtimeNs": 0, "digest": ""},
)  # fmt: skip


def dies(work: Callable[[], object]) -> bool:
    """Do it in a child; whether that was killed by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status != 1 << 8, "it raised something"
    return os.WIFSIGNALED(status)


def killed_at(name: str) -> Failpoints:
    return Failpoints({name: lambda: os.kill(os.getpid(), signal.SIGKILL)})


def _interrupt(case: Case) -> tuple[str, str]:
    """Something that was killed, and where."""
    chance, path = case.chance, case.copy("small")
    stage = chance.choice(STAGES)
    retention = Retention(chance.choice((0.0, 0.0, 3600.0)))
    if chance.random() < 0.25:
        backup = convert(path, HIERARCHICAL, retention=Retention(3600.0)).backup
        assert backup is not None
        dies(lambda: restore_backup(path, backup.conversion_id, failpoints=killed_at(stage)))
        return "restoration", stage
    dies(lambda: convert(path, HIERARCHICAL, retention=retention, failpoints=killed_at(stage)))
    return "conversion", stage


# --- what is done to it --------------------------------------------------------------------------------


def _documents(layout: Layout) -> list[Path]:
    works = [*layout.pending(), *layout.retained()]
    return [work.manifest for work in works if work.manifest.exists()]


def _spoil_json(text: str, case: Case) -> str:
    """One field of it, or one within a field, with something else; or the text itself."""
    chance = case.chance
    if chance.random() < 0.15:
        return chance.choice(
            ("", text[: chance.randrange(len(text))], "[" * 50_000, "null", "[]", "{}", "\0" * 100, text + text, "9" * 5000, " " * (1 << 20) + text)
        )  # fmt: skip
    document = json.loads(text)
    owner: dict[str, Any] = document
    field = chance.choice(sorted(owner))
    while isinstance(owner[field], dict) and owner[field] and chance.random() < 0.7:
        owner = owner[field]
        field = chance.choice(sorted(owner))
    if chance.random() < 0.1:
        del owner[field]
    else:
        wrong = chance.choice(WRONG)
        owner[field] = str(case.folder / "victim" / "secret") if wrong == "{victim}" else wrong
    return json.dumps(document)


def _spoil(case: Case, layout: Layout) -> str:
    """One thing; what, in a word."""
    chance = case.chance
    manifests = _documents(layout)
    kind = chance.choice(("manifest",) * 6 + ("history", "desired", "file", "name"))
    if kind == "manifest" and manifests:
        target = chance.choice(manifests)
        target.write_text(_spoil_json(target.read_text(), case), "utf-8", "surrogatepass")
    elif kind == "history" and layout.history.exists():
        *lines, last = layout.history.read_text().splitlines()
        lines.append(_spoil_json(last, case))
        layout.history.write_text(
            "\n".join(lines) + chance.choice(("\n", "")), "utf-8", "surrogatepass"
        )
    elif kind == "desired":
        text = json.dumps({"name": "x", "formats": [{"sqlitedict": {}}], "generation": 1})
        (layout.state / "desired.json").write_text(
            _spoil_json(text, case), "utf-8", "surrogatepass"
        )
    elif kind == "name" and layout.pending():
        work = layout.pending()[0].path
        os.rename(
            work,
            work.with_name(
                chance.choice((OTHER_ID, "x", f"{work.name}.old", "20200101T000000Z-ABCDEFGH"))
            ),
        )
    else:
        kind = "file"
        files = [
            file for work in [*layout.pending(), *layout.retained()]
            for file in (work.staging, work.preimage, work.restored, work.manifest) if file.exists()
        ]  # fmt: skip
        if files:
            _spoil_file(chance.choice(files), layout, chance)
    return kind


def _spoil_file(file: Path, layout: Layout, chance: random.Random) -> None:
    """A pre-image that is the database's second name is parted from it first: what is done is done to a copy."""
    data = file.read_bytes()
    file.unlink()
    what = chance.choice(("gone", "empty", "cut", "flipped", "copied", "theirs"))
    if what == "empty":
        file.touch()
    elif what == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif what == "flipped":
        at = chance.randrange(len(data))
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif what == "copied":
        file.write_bytes(data)
    elif what == "theirs":
        file.write_bytes(layout.primary.read_bytes())


def _take_away(case: Case) -> str:
    """Now and then the database itself is lost, too."""
    what = case.chance.choice(("",) * 6 + ("gone", "empty", "foreign"))
    if what:
        case.path.unlink()
    if what == "empty":
        case.path.touch()
    elif what == "foreign":
        case.path.write_bytes(b"orders: none\n" * 900)
    return what


# --- the judgement ----------------------------------------------------------------------------------------


def holds_all(path: Path) -> bool:
    """Whether a file is the database, whole, in the old format or the new."""
    try:
        marker = marker_of(path)
        return read_table(path, marker["format"]["sqlitedict"] if marker else {}) == RECORDS
    except Exception:
        return False


def good_copies(layout: Layout) -> set[str]:
    """All files, wherever they are, that hold everything; a file with two names once."""
    found = {}
    for path in [layout.primary, *layout.state.rglob("*")]:
        if (
            path.is_file()
            and not path.is_symlink()
            and path.suffix in {".db", ".2"}
            and holds_all(path)
        ):
            found[os.lstat(path).st_ino] = str(path)
    return set(found.values())


def judge(case: Case) -> tuple[str, str]:
    """What came of it, and what was not as promised."""
    chance = case.chance
    victim = plant_victim(case.folder)
    theirs = [identity(victim), identity(victim / "secret")]
    what, stage = _interrupt(case)
    path, layout = case.path, Layout.of(case.path)
    kind = _spoil(case, layout) if layout.state.exists() else "nothing"
    lost = _take_away(case)
    there_were = good_copies(layout)
    outcome, error = attempt(lambda: recover(path))
    word = f"{what}, {kind} damaged: {outcome}"
    told = f"{stage}, database {lost or 'there'}: {error}"
    looks: list[Callable[[], object]] = [
        lambda: inspect(path), lambda: history.read(path), lambda: list_backups(path, verify=True),
        lambda: state_file.load(path, "desired.json"), lambda: prune_backups(path),
    ]  # fmt: skip
    for look in chance.sample(looks, 2):
        attempt(look)
    if [identity(victim), identity(victim / "secret")] != theirs:
        return word, f"something outside was touched: {told}"
    if there_were and not good_copies(layout):
        return word, f"the last good copy is gone: {told}"
    if error is None and layout.pending():
        return word, f"it said nothing, and work is pending: {told}"
    if not lost and not holds_all(path):
        return word, f"the database is not what it was: {told}"
    preimages = [name for name in there_were if "/work/" in name and "preimage" in name]
    if outcome == "recovered" and preimages and not holds_all(path):
        return word, f"there was a pre-image, nothing was said, and there is no database: {told}"
    # Once more, and whatever was refused is refused again; what was done is done.
    again, second = attempt(lambda: recover(path))
    if error is None and (second is not None or again != "unchanged"):
        return word, f"a second recovery: {again} ({second}), after {told}"
    if isinstance(error, errors.NeedsAttention) and second is None and layout.pending():
        return word, f"a person was needed, and then not: {told}"
    if there_were and not good_copies(layout):
        return word, f"the last good copy is gone with the second recovery: {told}"
    if not lost and error is None:
        attempt(lambda: convert(path, HIERARCHICAL))
        if not holds_all(path):
            return word, f"the database is not what it was once it was converted: {told}"
    return word, ""

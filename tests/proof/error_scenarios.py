"""Operations of the store as the proofs try them: what a database is before, what is asked, and what it then is.

Each is prepared anew for every case, in a directory of its own: by copying a database, or by an operation that is
killed at a failpoint where a recovery is what is tried.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from format_store import (
    Format,
    convert,
    list_backups,
    pin_backup,
    prune_backups,
    restore_backup,
    undo,
    unpin_backup,
)
from tests.proof.injection import Request, Zygote
from tests.support.databases import (
    Records,
    marker_of,
    read_table,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.openers import kill_writer
from tests.support.restorations import BEFORE, LATER, converted
from tests.support.sqlite_files import EVERY_KIND, everything, write_sql

NAME = "orders.db"
MODE = 0o640
RECORDS: Records = sample(12)
DICT: dict[str, Any] = {
    "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd"}
}
SQLITE: dict[str, Any] = {
    "sqlite": {
        "pageSize": 1024,
        "autoVacuum": "full",
        "migrations": [
            {
                "number": 1,
                "sql": "CREATE TABLE one (a); INSERT INTO one SELECT id FROM log",
                "down": "DROP TABLE one",
            },
            {
                "number": 2,
                "sql": "ALTER TABLE one RENAME TO two; DELETE FROM two WHERE a = 1",
                "down": "INSERT INTO two VALUES (1); ALTER TABLE two RENAME TO one",
            },
        ],
    },
    "sqlitedict": {"keyEncoding": "hierarchical"},
}
MIGRATED = frozenset({"unnamed", "one", "two"})

State = Callable[[Path], str]


@dataclass(frozen=True)
class Scenario:
    """``operation`` and ``more`` are the driver's words. ``target``: what is converted to, and finished with.

    ``before``: ``old``, ``new`` or ``lost``, what the database is when the operation begins. ``state`` tells what it is,
    and requires that it is that wholly. ``rests``: nothing has to be settled, so that an error leaves every byte.
    ``killed``: the failpoint at which ``operation`` is killed, for a recovery to be what is tried; ``spoil`` does
    something to the database then. ``conversions``: how many have succeeded in the end.
    """

    name: str
    pristine: Path
    state: State
    finish: Callable[[Path], None]
    operation: str = "convert"
    more: tuple[str, ...] = ()
    target: dict[str, Any] | None = None
    before: str = "old"
    rests: bool = True
    hard_links: bool = True
    killed: str = ""
    spoil: Callable[[Path], None] | None = None
    conversions: int = 1
    mode: int = 0o100000 | MODE

    @property
    def only_recovers(self) -> bool:
        return bool(self.killed)

    def prepare(self, zygote: Zygote, directory: Path) -> Path:
        """The database as it is when the operation begins."""
        path = Path(shutil.copytree(self.pristine, directory)) / NAME
        if self.killed:
            asked = self._asked(
                path, self.operation, *self.more, "--failpoint", self.killed, "kill"
            )
            ending = zygote.run(asked)
            assert ending.code == -9, ending
        if self.spoil:
            self.spoil(path)
        return path

    def request(self, path: Path) -> Request:
        if self.killed:
            return self.recovery(path)
        return self._asked(path, self.operation, *self.more)

    def recovery(self, path: Path) -> Request:
        return self._asked(path, "recover")

    def _asked(self, path: Path, operation: str, *more: str) -> Request:
        target = ("--to", json.dumps(self.target)) if self.target else ()
        return Request((operation, str(path), *target, *more), hard_links=self.hard_links)


def dict_state(path: Path) -> str:
    """Plain, or converted; each record is there."""
    if not path.exists() or path.stat().st_size == 0:
        return "lost"
    assert records_on_disk(path) == RECORDS
    return "new" if marker_of(path) else "old"


def sql_state(pristine: Path) -> State:
    """Every kind of table, and sqlitedict's in its format; migrated or not."""
    before = _unmigrated(pristine)

    def state(path: Path) -> str:
        if not path.exists():
            return "lost"
        new = marker_of(path) is not None
        found = everything(path)
        assert ("table two" in found) == new
        assert found.get("table two", ["(1, 2)"]) == ["(1, 2)"]
        assert _unmigrated(path) == before
        assert records_on_disk(path) == RECORDS
        return "new" if new else "old"

    return state


def _unmigrated(path: Path) -> dict[str, Any]:
    found = everything(path)
    found["schema"] = [row for row in found["schema"] if row[2] not in MIGRATED]
    for name in MIGRATED:
        found.pop(f"table {name}", None)
    return found


def conversions(directory: Path) -> list[Scenario]:
    """Of both engines; beside a journal or a log that a killed application left; with a backup kept; without links."""

    def pristine(name: str, *statements: str) -> Path:
        path = _place(directory, f"convert {name}")
        write_plain(path, RECORDS)
        path.chmod(MODE)
        if statements:
            kill_writer(path, *statements)
        return path.parent

    def scenario(name: str, home: Path, **more: Any) -> Scenario:
        return Scenario(name, home, dict_state, _converter(DICT), target=DICT, **more)

    plain = pristine("plain")
    hot = ("PRAGMA cache_size=1", "BEGIN", "UPDATE unnamed SET value = zeroblob(3000)")
    wal = (
        "PRAGMA journal_mode=WAL",
        "BEGIN",
        "UPDATE unnamed SET value = value",
        "COMMIT",
    )
    found = [
        scenario("sqlitedict: convert", plain),
        scenario("sqlitedict: convert beside a hot journal", pristine("hot", *hot), rests=False),
        scenario("sqlitedict: convert beside a log", pristine("wal", *wal), rests=False),
        scenario("sqlitedict: convert without hard links", plain, hard_links=False),
        scenario("sqlitedict: convert and keep a backup", plain, more=("--retain", "3600")),
    ]
    path = write_sql(_place(directory, "convert sql"), EVERY_KIND)
    write_plain(path, RECORDS)
    path.chmod(MODE)
    state = sql_state(path)
    found.append(Scenario("sqlite: convert", path.parent, state, _converter(SQLITE), target=SQLITE))
    return found


def recoveries(converting: list[Scenario]) -> list[Scenario]:
    """Of conversions that were killed where each row of the table in ``situations`` begins."""
    by_name = {scenario.name: scenario for scenario in converting}
    places = (
        ("prepare.after-directory", "old"),
        ("build.after-staging", "old"),
        ("verify.after-ready", "old"),
        ("swap.after-preimage", "old"),
        ("swap.after-rename", "new"),
        ("cleanup.after-delete-preimage", "new"),
    )
    found = []
    for name, killed, before in (
        *(("sqlitedict: convert", *place) for place in places),
        ("sqlitedict: convert without hard links", "swap.after-preimage", "old"),
        ("sqlitedict: convert without hard links", "swap.after-rename", "new"),
        ("sqlitedict: convert and keep a backup", "swap.after-rename", "new"),
        *(("sqlite: convert", *place) for place in places[2:5]),
    ):
        made = by_name[name]
        found.append(_changed(made, f"recover: {name} killed at {killed}", killed, before))
    lost = by_name["sqlitedict: convert"]
    found.append(
        _changed(lost, "recover: missing after the swap", "swap.after-fsync", "lost", Path.unlink)
    )
    found.append(
        _changed(lost, "recover: empty after the swap", "swap.after-fsync", "lost", _emptied)
    )
    return found


def ways_back(directory: Path) -> list[Scenario]:
    """Undo of both engines, a restoration and the recoveries of it, a backup deleted and one that is over."""
    made = converted(_place(directory, "back"))
    made.path.chmod(MODE)
    home = made.path.parent
    everything_written = [*BEFORE, *LATER]

    def undone(path: Path) -> str:
        assert records_on_disk(path) == everything_written
        marker = marker_of(path)
        assert marker is not None
        return (
            "old" if marker["format"]["sqlitedict"].get("keyEncoding") == "hierarchical" else "new"
        )

    def restored(path: Path) -> str:
        if not path.exists():
            return "lost"
        new = path.read_bytes() == made.old
        assert records_on_disk(path) == (BEFORE if new else everything_written)
        return "new" if new else "old"

    def undo_it(path: Path) -> None:
        if undone(path) == "old":
            undo(path)

    def restore_it(path: Path) -> None:
        if restored(path) == "old":
            restore_backup(path, made.backup)
        backups = list_backups(path, verify=True)
        assert [backup.sound for backup in backups] == [True, True]
        (kept,) = [backup for backup in backups if backup.conversion_id != made.backup]
        assert kept.pinned
        assert read_table(Path(kept.path), DICT["sqlitedict"]) == everything_written

    def restoration(name: str, **more: Any) -> Scenario:
        words = ("--backup", made.backup)
        return Scenario(name, home, restored, restore_it, "restore", words, **more)

    found = [
        Scenario("sqlitedict: undo", home, undone, undo_it, "undo", conversions=2),
        restoration("restore"),
        restoration("restore without hard links", hard_links=False),
    ]
    for killed, before in (
        ("build.after-staging", "old"),
        ("swap.after-preimage", "old"),
        ("swap.after-rename", "new"),
    ):
        name = f"recover: restore killed at {killed}"
        found.append(restoration(name, killed=killed, before=before))

    path = write_sql(_place(directory, "back sql"), EVERY_KIND)
    write_plain(path, RECORDS)
    before_all = sql_state(path)
    convert(path, Format.from_spec(SQLITE))
    path.chmod(MODE)

    def migrated_back(path: Path) -> str:
        # The oracle tells "new" by a marker, which an undone database has as well: by the table, then.
        found = everything(path)
        assert records_on_disk(path) == RECORDS
        assert "table one" not in found
        if "table two" in found:
            assert before_all(path) == "new"
            return "old"
        return "new"

    def migrate_back(path: Path) -> None:
        if migrated_back(path) == "old":
            undo(path)

    found.append(
        Scenario("sqlite: undo", path.parent, migrated_back, migrate_back, "undo", conversions=2)
    )
    return found


def retention(directory: Path) -> list[Scenario]:
    """A backup deleted by a person, and one whose time is over. ``new``: it is gone; the database stays."""
    made = converted(_place(directory, "retention"))
    made.path.chmod(MODE)
    pin_backup(made.path, made.backup)
    unpin_backup(made.path, made.backup, retain_for=0)
    database = made.path.read_bytes()

    def state(path: Path) -> str:
        assert path.read_bytes() == database
        backup = replace(made, path=path).preimage
        if not backup.exists():
            return "new"
        assert backup.read_bytes() == made.old
        return "old"

    def finish(path: Path) -> None:
        prune_backups(path)
        assert list_backups(path) == ()
        assert records_on_disk(path) == [*BEFORE, *LATER]

    home = made.path.parent
    return [
        Scenario("delete a backup", home, state, finish, "delete", ("--backup", made.backup)),
        Scenario("prune backups", home, state, finish, "prune"),
    ]


def of_many_records(directory: Path, count: int) -> Scenario:
    """A conversion of values that takes chunks, workers and memory."""
    path = _place(directory, f"convert {count}")
    records = sample(count)
    write_plain(path, records)
    path.chmod(MODE)

    def state(path: Path) -> str:
        assert records_on_disk(path) == records
        return "new" if marker_of(path) else "old"

    return Scenario(f"{count} records", path.parent, state, _converter(DICT), target=DICT)


def all_of_them(directory: Path) -> list[Scenario]:
    converting = conversions(directory)
    return [
        *converting,
        *recoveries(converting),
        *ways_back(directory),
        *retention(directory),
    ]


def _changed(
    made: Scenario,
    name: str,
    killed: str,
    before: str,
    spoil: Callable[[Path], None] | None = None,
) -> Scenario:
    return replace(made, name=name, killed=killed, before=before, spoil=spoil)


def _converter(target: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: void(convert(path, Format.from_spec(target)))


def void(_: object) -> None:
    """For a callable that is to return nothing."""


def _place(directory: Path, name: str) -> Path:
    home = directory / name
    home.mkdir()
    return home / NAME


def _emptied(path: Path) -> None:
    """Another file, of 0 bytes: its creation reached the disk and its content did not."""
    path.unlink()
    path.touch()
    path.chmod(MODE)

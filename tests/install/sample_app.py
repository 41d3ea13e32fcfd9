"""An application that uses every public name of ``format_store``; type-checked and run as its users would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import format_store
from format_store import (
    PLAIN_SQLITEDICT,
    VERSION,
    Abort,
    Backup,
    Failpoints,
    Format,
    Inspection,
    Marker,
    Observer,
    Outcome,
    Phase,
    Plan,
    Recovery,
    RecoveryOutcome,
    Result,
    Retention,
    Store,
    convert,
    delete_backup,
    inspect,
    list_backups,
    new_conversion_id,
    open_store,
    pin_backup,
    plan,
    prune_backups,
    recover,
    restore_backup,
    settle,
    undo,
    unpin_backup,
    verify,
)
from format_store.errors import Refused, StoreError

PATH = "orders.db"
V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")


class Watching(Observer):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def phase(self, phase: Phase) -> None:
        self.seen.append(phase.value)

    def progress(self, done: int, total: int) -> None:
        self.seen.append(f"{done} of {total}")

    def recovered(self, recovery: Recovery) -> None:
        assert_type(recovery.outcome, RecoveryOutcome)
        self.seen.append(recovery.detail)

    def backup_created(self, backup: Backup) -> None:
        self.seen.append(backup.path)

    def backup_deleted(self, backup: Backup) -> None:
        self.seen.append(backup.path)


def fill(store: Store) -> None:
    store["/eu/berlin/1"] = {"amount": 12}
    store.update({"/eu/berlin/2": {"amount": 7}, "/eu/paris/1": {"amount": 3}})
    assert_type(store["/eu/berlin/1"], Any)
    assert_type(store.get("/none"), Any | None)
    assert_type(store.items(), Iterator[tuple[str, Any]])
    assert_type(store.keys(), Iterator[str])
    assert_type(len(store), int)
    assert_type("/eu" in store, bool)
    assert_type(store.format, Format)
    for key, value in store.children("/eu/berlin"):
        assert_type(key, str)
        print(key, value)
    assert_type(store.scan("/eu", None), Iterator[tuple[str, Any]])
    assert store.pop("/eu/paris/1") == {"amount": 3}
    del store["/eu/berlin/2"]
    store.commit()


def work() -> None:
    with open_store(PATH) as store:
        assert_type(store, Store)
        fill(store)
    found = inspect(PATH)
    assert_type(found, Inspection)
    assert_type(found.marker, Marker | None)
    planned = plan(PATH, V2, unmarked=[PLAIN_SQLITEDICT])
    assert_type(planned, Plan)
    print(planned.action, [obstacle.key for obstacle in planned.obstacles])
    settle(PATH)
    watching = Watching()
    result = convert(
        PATH,
        V2,
        retention=Retention(retain_for=3600),
        observer=watching,
        abort=Abort(),
        conversion_id=new_conversion_id(),
        failpoints=Failpoints(),
    )
    assert_type(result, Result)
    print(result.outcome is Outcome.CONVERTED, result.rows, Phase.SWAPPING.value in watching.seen)
    assert_type(verify(PATH), int)
    (backup,) = list_backups(PATH, verify=True)
    assert_type(backup.sound, bool | None)
    assert_type(pin_backup(PATH, backup.conversion_id), Backup)
    assert_type(restore_backup(PATH, backup.conversion_id), Result)
    assert_type(unpin_backup(PATH, backup.conversion_id, retain_for=0), Backup)
    print(
        convert(PATH, V2).outcome.value,
        undo(PATH).target == PLAIN_SQLITEDICT,
        recover(PATH).outcome.value,
    )
    for kept in list_backups(PATH):
        unpin_backup(PATH, kept.conversion_id, retain_for=3600)
        assert_type(delete_backup(PATH, kept.conversion_id), Backup)
    assert_type(prune_backups(PATH), float | None)
    try:
        convert("missing/../orders.db", Format.from_spec({"sqlitedict": {}}), unmarked=[])
    except Refused as error:
        print(error.reason, error.hint)
    except StoreError as error:
        assert_type(error.exit_code, int)
    print(VERSION, len(format_store.__all__))


if __name__ == "__main__":
    work()

"""The in-process store: crash-safe format conversion of embedded SQLite databases.

What belongs here: everything that reads or writes a database or its state directory. What never does:
Kubernetes, HTTP, metrics libraries; this package must work with nothing but a volume.

    convert(path, target)        back up, convert, verify, swap, clean up
    recover(path)                end what a crash left; idempotent, needs nothing but the volume
    inspect(path) plan(path, …)  look, without changing anything
    undo(path)                   convert back, with everything written since
    list_backups(path)           what is kept; restore_backup, pin_backup, unpin_backup, delete_backup
    verify(path)                 decode every row, check the file
    open_store(path, ensure=…)   an app's way in: a ``SqliteDict`` in whatever format the file has

Modules are loaded on first use: a worker process that decodes values must stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from format_store.abort import Abort
    from format_store.api import (
        PLAIN_SQLITEDICT,
        convert,
        delete_backup,
        inspect,
        list_backups,
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
    from format_store.clock import new_conversion_id
    from format_store.failpoints import Failpoints
    from format_store.formats import Format, Marker
    from format_store.inspection import Inspection
    from format_store.observer import Backup, Observer, Phase, Recovery, RecoveryOutcome
    from format_store.planning import Plan
    from format_store.results import Outcome, Result
    from format_store.run import Retention
    from format_store.store import Store, open_store
    from format_store.version import VERSION

_PUBLIC = {
    "Abort": "abort",
    "Backup": "observer",
    "Failpoints": "failpoints",
    "Format": "formats",
    "Inspection": "inspection",
    "Marker": "formats",
    "Observer": "observer",
    "Outcome": "results",
    "PLAIN_SQLITEDICT": "api",
    "Phase": "observer",
    "Plan": "planning",
    "Recovery": "observer",
    "RecoveryOutcome": "observer",
    "Result": "results",
    "Retention": "run",
    "Store": "store",
    "VERSION": "version",
    "convert": "api",
    "delete_backup": "api",
    "inspect": "api",
    "list_backups": "api",
    "new_conversion_id": "clock",
    "open_store": "store",
    "pin_backup": "api",
    "plan": "api",
    "prune_backups": "api",
    "recover": "api",
    "restore_backup": "api",
    "settle": "api",
    "undo": "api",
    "unpin_backup": "api",
    "verify": "api",
}

__all__ = [
    "PLAIN_SQLITEDICT",
    "VERSION",
    "Abort",
    "Backup",
    "Failpoints",
    "Format",
    "Inspection",
    "Marker",
    "Observer",
    "Outcome",
    "Phase",
    "Plan",
    "Recovery",
    "RecoveryOutcome",
    "Result",
    "Retention",
    "Store",
    "convert",
    "delete_backup",
    "inspect",
    "list_backups",
    "new_conversion_id",
    "open_store",
    "pin_backup",
    "plan",
    "prune_backups",
    "recover",
    "restore_backup",
    "settle",
    "undo",
    "unpin_backup",
    "verify",
]


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])

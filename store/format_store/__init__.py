"""The in-process store: crash-safe format conversion of embedded SQLite databases.

What belongs here: everything that reads or writes a database or its state directory. What never does:
Kubernetes, HTTP, metrics libraries; this package must work with nothing but a volume.

    convert(path, target)        back up, convert, verify, swap, clean up
    recover(path)                end what a crash left; idempotent, needs nothing but the volume
    inspect(path) plan(path, …)  look, without changing anything
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
        inspect,
        plan,
        prune_backups,
        recover,
        settle,
        verify,
    )
    from format_store.failpoints import Failpoints
    from format_store.formats import Format, Marker
    from format_store.inspection import Inspection, Plan
    from format_store.observer import Backup, Observer, Phase, Recovery, RecoveryOutcome
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
    "Plan": "inspection",
    "Recovery": "observer",
    "RecoveryOutcome": "observer",
    "Result": "results",
    "Retention": "run",
    "Store": "store",
    "VERSION": "version",
    "convert": "api",
    "inspect": "api",
    "open_store": "store",
    "plan": "api",
    "prune_backups": "api",
    "recover": "api",
    "settle": "api",
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
    "inspect",
    "open_store",
    "plan",
    "prune_backups",
    "recover",
    "settle",
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

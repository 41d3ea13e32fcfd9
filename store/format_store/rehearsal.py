"""A conversion tried out: all of it, on a throw-away copy in the state directory, measured, and removed.

The copy is made from the file's bytes under a write lease, so that nobody writes meanwhile; an application
that opens the database then is let in at once, and the rehearsal ends. What follows works on the copy alone, in
a state directory of the copy's own. ``recovery.recover_pending`` removes what a killed rehearsal left, before
anything else and without counting it: nothing of the database depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from format_store import conversion, durable, errors, lease, lock, preflight, recovery, sqlitefile
from format_store.formats import Format
from format_store.layout import Layout
from format_store.observer import Phase
from format_store.run import Retention, Run, os_errors

_OPERATION = "rehearse"


@dataclass(frozen=True)
class Rehearsal:
    """A conversion that was done to a copy. ``seconds``: the conversion; ``copy_seconds``: making the copy.

    ``bytes_after`` is the size of the converted database.
    """

    seconds: float
    copy_seconds: float
    rows: int
    bytes_before: int
    bytes_after: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "copySeconds": round(self.copy_seconds, 3),
            "rows": self.rows,
            "bytesBefore": self.bytes_before,
            "bytesAfter": self.bytes_after,
        }


def rehearse(run: Run, target: Format, unmarked: Sequence[Format], needed: int) -> Rehearsal:
    """Convert a copy of the database; ``needed``: bytes that the conversion takes beside it.

    Raises what ``convert`` raises; the database is as it was, and the copy is gone.
    """
    layout = run.layout
    with lock.exclusive(layout):
        recovery.recover_pending(run)
        copy = Layout(layout.rehearsal / layout.primary.name)
        with os_errors(_OPERATION, layout.rehearsal, "The database is as it was."):
            found = preflight.require_plain_file(layout)
            preflight.require_space(layout, needed + (found.st_size if found else 0))
            durable.make_directory(layout.rehearsal)
        try:
            begun = time.perf_counter()
            _copy(run, copy)
            copied = time.perf_counter()
            if __debug__:
                run.failpoints.hit("rehearse.after-copy")
            result = conversion.convert(
                replace(run, layout=copy, retention=Retention()), target, unmarked
            )
            done = time.perf_counter()
            if __debug__:
                run.failpoints.hit("rehearse.before-remove")
        finally:
            with os_errors(_OPERATION, layout.rehearsal, "The database is as it was."):
                durable.remove_tree(layout.rehearsal)
    return Rehearsal(
        done - copied, copied - begun, result.rows, result.bytes_before, result.bytes_after
    )


def _copy(run: Run, copy: Layout) -> None:
    run.observer.phase(Phase.SETTLING)
    with os_errors(_OPERATION, run.primary, "The database is as it was."):
        sqlitefile.settle(run.layout)
        with lease.take(
            run.primary, operation=_OPERATION, unchecked=run.openers_unchecked
        ) as source:
            sqlitefile.require_no_siblings(run.layout, operation=_OPERATION)

            def alone(_copied: int) -> None:
                run.check_abort(_OPERATION)
                if not source.held():
                    raise _opened(run)

            durable.copy_descriptor(source.descriptor, copy.primary, alone)
            if not source.held():
                raise _opened(run)


def _opened(run: Run) -> errors.InUse:
    return errors.InUse(
        "somebody opened the database while it was being copied for the rehearsal",
        operation=_OPERATION,
        path=run.primary,
        hint="Nothing was changed. Rehearse while its application does not run.",
    )

"""What every step of a run shares: the database, the caller's wishes, and whom to tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from format_store import clock, errors, failpoints
from format_store.abort import Abort
from format_store.layout import Layout
from format_store.observer import Observer

#: Address space that one worker may use for decoding values, in bytes.
DEFAULT_WORKER_MEMORY = 1 << 30


@dataclass(frozen=True)
class Retention:
    """How long a pre-image outlives its conversion: ``retain_for`` in seconds, or for good if ``pinned``."""

    retain_for: float = 0.0
    pinned: bool = False

    @property
    def keeps(self) -> bool:
        return self.pinned or self.retain_for > 0


@dataclass(frozen=True)
class Run:
    """One call of ``convert`` or ``recover``; the lock is held while it exists."""

    layout: Layout
    observer: Observer = field(default_factory=Observer)
    abort: Abort = field(default_factory=Abort)
    failpoints: failpoints.Failpoints = failpoints.NONE
    openers_unchecked: bool = False
    pickle_allow: Sequence[str] = ()
    worker_memory: int = DEFAULT_WORKER_MEMORY
    retention: Retention = Retention()
    conversion_id: str | None = None
    """What the caller calls the conversion already; None: it gets an id of its own."""

    def new_id(self) -> str:
        """The id of the conversion that begins."""
        return self.conversion_id or clock.new_conversion_id()

    @property
    def primary(self) -> Path:
        return self.layout.primary

    def check_abort(self, operation: str) -> None:
        """Raise Aborted if the caller asked to stop."""
        if self.abort.requested:
            raise errors.Aborted(
                "stopped on request",
                operation=operation,
                path=self.primary,
                hint="The database is as it was; the next run begins anew.",
            )


@contextmanager
def os_errors(operation: str, path: Path, hint: str = "") -> Iterator[None]:
    """Wrap ``OSError`` and ``MemoryError`` at a boundary of the package, chained."""
    try:
        yield
    except OSError as error:
        raise errors.from_os_error(error, operation=operation, path=path, hint=hint) from error
    except MemoryError as error:
        raise errors.from_memory_error(operation=operation, path=path, hint=hint) from error

"""What can go wrong with values, and with the processes that decode them.

    CodecError (ValueError)
    ├── Undecodable          the stored form is not one of this format
    │   ├── Forbidden        a pickle names something that is not on the list of what may be loaded
    │   └── ValueTooLarge    the value is larger than the limit once it is decompressed
    ├── Unencodable          the format cannot hold the object
    ├── SharedReference      a mutable object is reached twice, or contains itself
    └── BadValue             one of the above, with the row that it is about
    UnknownFormat (LookupError)    no codec or compression of this name
    WorkerError (RuntimeError)
    ├── WorkerDied           a worker process ended in the middle of its work
    └── Interrupted          somebody called ``WorkerPool.interrupt``

Nothing of the store's own error tree is used: worker processes import this package and nothing else.
"""

from __future__ import annotations


class CodecError(ValueError):
    """Base of everything that is wrong with a value.

    ``type_name`` is the type that the error is about, as a reader would call it.
    """

    def __init__(self, message: str, *, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name


class Undecodable(CodecError):
    """The stored form is damaged, or of another format."""


class Forbidden(Undecodable):
    """A pickle that would load something else than plain data; nothing of it was run."""


class ValueTooLarge(Undecodable):
    """The value exceeds the size limit once it is decompressed."""


class Unencodable(CodecError):
    """The object cannot be represented, or would not come back the same."""


class SharedReference(CodecError):
    """The object graph is no tree: a cycle, or a mutable object that is reached twice."""


class BadValue(CodecError):
    """A row whose value cannot be carried over: ``rowid``, ``type_name`` and ``why``."""

    def __init__(self, rowid: int, type_name: str, why: str) -> None:
        super().__init__(f"row {rowid}: {why}", type_name=type_name)
        self.rowid = rowid
        self.why = why

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BadValue):
            return NotImplemented
        return (self.rowid, self.type_name, self.why) == (other.rowid, other.type_name, other.why)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"BadValue(rowid={self.rowid}, type_name={self.type_name!r}, why={self.why!r})"


class UnknownFormat(LookupError):
    """There is no codec or no compression of this name."""


class WorkerError(RuntimeError):
    """The work could not be done; nothing is known about the values."""


class WorkerDied(WorkerError):
    """A worker process ended by itself or was killed.

    ``status`` is the exit status as ``subprocess`` gives it (negative: a signal); ``first_rowid`` and
    ``last_rowid`` tell the chunk that it worked on, None when it had none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        first_rowid: int | None = None,
        last_rowid: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.first_rowid = first_rowid
        self.last_rowid = last_rowid


class Interrupted(WorkerError):
    """The pool was told to stop."""

"""``SqliteDict`` with the types that it does not ship, as it behaves on Python 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threading import Thread
    from types import TracebackType
    from typing import Self

    class SqliteMultithread(Thread):
        """The connection: one thread that takes statements from a queue."""

        def execute(self, req: str, arg: tuple[Any, ...] | None = None) -> None: ...
        def select(
            self, req: str, arg: tuple[Any, ...] | None = None
        ) -> Iterator[tuple[Any, ...]]: ...
        def select_one(
            self, req: str, arg: tuple[Any, ...] | None = None
        ) -> tuple[Any, ...] | None: ...

    class SqliteDict(MutableMapping[str, Any]):
        """Keys are strings, values whatever the codec holds; ``keys``, ``values`` and ``items`` are iterators."""

        filename: str
        tablename: str
        flag: str
        autocommit: bool
        journal_mode: str
        conn: SqliteMultithread
        encode: Callable[[Any], Any]
        decode: Callable[[Any], Any]

        def __init__(
            self,
            filename: str | None = None,
            tablename: str = "unnamed",
            flag: str = "c",
            autocommit: bool = False,
            journal_mode: str = "DELETE",
            **options: Any,
        ) -> None: ...
        def _new_conn(self) -> SqliteMultithread: ...
        def __enter__(self) -> Self: ...
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None: ...
        def __getitem__(self, key: str) -> Any: ...
        def __setitem__(self, key: str, value: Any) -> None: ...
        def __delitem__(self, key: str) -> None: ...
        def __contains__(self, key: object) -> bool: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...
        def __bool__(self) -> bool: ...
        # Iterators, where a mapping has views: len() of them does not work, and a second loop finds nothing.
        def keys(self) -> Iterator[str]: ...  # type: ignore[override]
        def values(self) -> Iterator[Any]: ...  # type: ignore[override]
        def items(self) -> Iterator[tuple[str, Any]]: ...  # type: ignore[override]
        def clear(self) -> None: ...
        def commit(self, blocking: bool = True) -> None: ...
        def sync(self, blocking: bool = True) -> None: ...
        def close(self, do_log: bool = True, force: bool = False) -> None: ...
        def terminate(self) -> None: ...
        @staticmethod
        def get_tablenames(filename: str) -> list[str]: ...

else:
    from sqlitedict import SqliteDict, SqliteMultithread

__all__ = ["SqliteDict", "SqliteMultithread"]

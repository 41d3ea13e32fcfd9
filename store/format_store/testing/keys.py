"""The checks of a key encoding."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st

from format_store.keys import (
    InvalidKey,
    KeyEncoding,
    NotCanonical,
    ReadOnlyKeyEncoding,
    SqlKeyEncoding,
    collation_of,
    directory_of,
    is_child,
)
from format_store.testing.tools import Stored, Values, damaged, for_all, in_time, raw

_ALPHABET = "/ab._\0é日😀"
_ANY = st.text(st.sampled_from(_ALPHABET), max_size=9) | st.text(max_size=20)


class KeyEncodingConformance:
    """Set ``encoding``, and name the class ``Test…``.

    ``order``: what keys are to be sorted by, as ``sorted`` takes it; set it to have the order checked.
    ``keys``: a hypothesis strategy of keys, besides those that are always tried.
    ``compare``: the collation of the column, for an encoding that has one of its own.
    Functions are set as ``staticmethod``.
    """

    encoding: ClassVar[Any]
    order: ClassVar[Any] = None
    keys: ClassVar[Values | None] = None
    compare: ClassVar[Any] = None

    def _keys(self) -> Values:
        return _ANY if self.keys is None else _ANY | self.keys

    def _stored(self, key: str) -> Stored:
        stored: Stored = self.encoding.encode(key)
        assert type(stored) is (str if self.encoding.affinity == "TEXT" else bytes)
        return stored

    def _key(self, stored: object) -> str | None:
        """The key, or None where it is refused. Anything else fails."""
        try:
            key: str = in_time("decode", lambda: self.encoding.decode(stored))
        except NotCanonical:
            return None
        return key

    @contextmanager
    def _table(self, keys: Iterable[str] = ()) -> Iterator[sqlite3.Connection]:
        """A table ``t`` as the store makes it, with these keys in it."""
        connection = sqlite3.connect(":memory:")
        try:
            name = collation_of(self.encoding)
            if self.compare is not None:
                connection.create_collation(name, self.compare)
            guard = self.encoding.guard('"key"')
            check = "" if guard is None else f"CHECK ({guard})"
            connection.execute(
                f'CREATE TABLE t ("key" {self.encoding.affinity} COLLATE {name} PRIMARY KEY {check})'
            )
            connection.executemany(
                "INSERT OR FAIL INTO t VALUES (?)", [(self._stored(key),) for key in keys]
            )
            yield connection
        finally:
            connection.close()

    def test_protocol(self) -> None:
        """It has every part of ``KeyEncoding``, and a class that needs no argument."""
        assert isinstance(self.encoding, KeyEncoding)
        assert isinstance(self.encoding.name, str)
        assert self.encoding.name
        assert self.encoding.affinity in ("TEXT", "BLOB")
        assert type(self.encoding)().name == self.encoding.name

    def test_keys_come_back(self) -> None:
        """``decode(encode(key))`` is the key, for every string without surrogates."""

        def check(key: str) -> None:
            assert self.encoding.decode(self._stored(key)) == key

        for_all(check, key=self._keys())

    def test_different_keys_are_stored_differently(self) -> None:
        """As SQLite compares them: a key column is unique."""

        def check(keys: list[str]) -> None:
            with self._table(keys) as connection:
                (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
            assert count == len(keys)

        for_all(check, keys=st.lists(self._keys(), unique=True, max_size=20))

    def test_what_it_never_writes_is_refused(self) -> None:
        """Whatever decodes is exactly what encoding the key gives; all else is ``NotCanonical``, in time."""

        def check(key: str, data: st.DataObject) -> None:
            changed: Stored = data.draw(damaged(raw(self._stored(key))))
            if self.encoding.affinity == "TEXT":
                changed = raw(changed).decode("utf-8", "replace")
            found = self._key(changed)
            assert found is None or self.encoding.encode(found) == changed

        for_all(check, key=self._keys(), data=st.data())

    @pytest.mark.parametrize("stored", [None, 0, 1, 1.5, ["a"]])
    def test_other_types_are_refused(self, stored: object) -> None:
        """NULL, numbers, and a stored form of the other type: ``NotCanonical``."""
        for other in (stored, b"a" if self.encoding.affinity == "TEXT" else "a"):
            with pytest.raises(NotCanonical):
                self.encoding.decode(other)

    @pytest.mark.parametrize("key", ["\ud800", "a/\udfff", b"a", 1, None])
    def test_what_is_no_key_is_refused(self, key: Any) -> None:
        """No string, or a lone surrogate: ``InvalidKey``, also where a range is asked for."""
        with pytest.raises(InvalidKey):
            self.encoding.encode(key)
        with pytest.raises(InvalidKey):
            self.encoding.range_of_children(key)

    def test_order(self) -> None:
        """SQLite sorts the stored keys by ``order``."""
        if self.order is None:
            pytest.skip("`order` is not set")

        def check(keys: list[str]) -> None:
            with self._table(keys) as connection:
                rows = connection.execute('SELECT "key" FROM t ORDER BY "key"').fetchall()
            assert [self.encoding.decode(stored) for (stored,) in rows] == sorted(
                keys, key=self.order
            )

        for_all(check, keys=st.lists(self._keys(), unique=True, max_size=20))

    def test_guard(self) -> None:
        """As a CHECK it takes every stored key, and neither NULL nor a number nor the other type."""
        if self.encoding.guard("key") is None:
            pytest.skip("the encoding has no guard")

        def check(key: str) -> None:
            with self._table([key]):
                pass

        for_all(check, key=self._keys())
        with self._table() as connection:
            foreign = b"a" if self.encoding.affinity == "TEXT" else "a"
            for wrong in (None, 1, 1.5, foreign):
                # An integer would become text in a TEXT column, before any CHECK.
                stored = connection.execute(
                    f"SELECT {self.encoding.guard('stored')} FROM (SELECT ? AS stored)", (wrong,)
                ).fetchone()[0]
                assert stored == 0, wrong
            for wrong in (None, foreign):
                with pytest.raises(sqlite3.IntegrityError):
                    connection.execute("INSERT INTO t VALUES (?)", (wrong,))

    def test_range_of_children_holds_every_child(self) -> None:
        """As ``key >= ? AND key < ?``: no child of the directory lies outside."""

        def check(path: str, names: list[str], others: list[str]) -> None:
            directory = directory_of(path)
            keys = {path, directory, directory + "/", *others}
            for name in names:
                keys |= {directory + name, directory + name + "/", directory + name + "//"}
            with self._table(keys) as connection:
                rows = connection.execute(
                    'SELECT "key" FROM t WHERE "key" >= ? AND "key" < ?',
                    self.encoding.range_of_children(path),
                ).fetchall()
            found = {self.encoding.decode(stored) for (stored,) in rows}
            assert {key for key in keys if is_child(path, key)} <= found

        some = st.lists(self._keys(), max_size=8)
        for_all(check, path=self._keys(), names=some, others=some)

    def test_sql_encodes_as_python_does(self) -> None:
        """``encode_sql`` gives what ``encode`` gives, whether or not it asks ``otherwise``."""
        encoding = self._sql()

        def check(key: str) -> None:
            with self._asking() as connection:
                expression = encoding.encode_sql("key", "python_encode(key)")
                (stored,) = connection.execute(
                    f"SELECT {expression} FROM (SELECT CAST(:key AS TEXT) AS key)",
                    {**encoding.sql_parameters, "key": key},
                ).fetchone()
            assert stored == self._stored(key)

        for_all(check, key=self._keys())

    def test_sql_decodes_as_python_does(self) -> None:
        """``decodes_sql`` is true for a key and its stored form, and for no other pair, damaged ones included."""
        encoding = self._sql()

        def holds(stored: object, key: str) -> bool:
            with self._asking() as connection:
                expression = encoding.decodes_sql("stored", "key", "python_decode(stored)")
                (count,) = connection.execute(
                    f"SELECT count(*) FROM (SELECT :stored AS stored, :key AS key) WHERE {expression}",
                    {**encoding.sql_parameters, "stored": stored, "key": key},
                ).fetchone()
            return bool(count)

        def check(key: str, other: str, data: st.DataObject) -> None:
            stored = self._stored(key)
            assert holds(stored, key)
            assert holds(stored, other) == (key == other)
            changed: Stored = data.draw(damaged(raw(stored)))
            if self.encoding.affinity == "TEXT":
                changed = raw(changed).decode("utf-8", "replace")
            assert holds(changed, key) == (self._key(changed) == key)
            assert not holds(None, key)

        for_all(check, key=self._keys(), other=self._keys(), data=st.data())

    def _sql(self) -> SqlKeyEncoding:
        if not isinstance(self.encoding, SqlKeyEncoding):
            pytest.skip("the encoding does not speak SQL")
        assert not isinstance(self.encoding, ReadOnlyKeyEncoding), "only targets are written in SQL"
        return self.encoding

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(":memory:")
        try:
            connection.create_function("python_encode", 1, self.encoding.encode)
            connection.create_function("python_decode", 1, self._key)
            yield connection
        finally:
            connection.close()

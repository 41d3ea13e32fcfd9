"""The checks of an engine, through ``format_store.convert``: the whole protocol on real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from format_store import Failpoints, Format, Outcome, convert, errors, inspect, recover, verify
from format_store.codecs.canonical import same
from format_store.engines import registry
from format_store.layout import Layout
from format_store.testing.staging import corruptions

Records = Sequence[tuple[str, Any]]

_CHILD = Path(__file__).with_name("crash_child.py")
#: Passed after the staging copy is there and before it is looked at.
_STAGED = "build.after-staging"
_SWAPPED = "swap.after-rename"
_DAMAGED_SOURCES = 8


class EngineConformance:
    """Set ``source`` and ``target``, write ``write`` and ``read``, and name the class ``Test…``.

    ``source``, ``target``: two formats of the engine that are different on disk. The engine has to be
    installed (an entry point of the group ``storageformat.engines``): processes of their own load it by name.
    ``records``: pairs of key and value that both formats can hold.
    """

    source: ClassVar[Any]
    target: ClassVar[Any]
    records: ClassVar[Records] = tuple(
        (f"/dir-{number % 7}/file-{number:03d}", {"number": number, "text": "é" * number})
        for number in range(40)
    )

    def write(self, path: Path, records: Records) -> None:
        """Make the database as its application does in the source format, without any code of the engine."""
        raise NotImplementedError

    def read(self, path: Path) -> Records:
        """All records in the order of ``write``, in whichever of the two formats the file is, without the engine."""
        raise NotImplementedError

    @pytest.fixture
    def database(self, tmp_path: Path) -> Path:
        path = tmp_path / "database.db"
        self.write(path, self.records)
        return path

    def _convert(self, path: Path, target: Format, **options: Any) -> Any:
        return convert(path, target, unmarked=[self.source], **options)

    def _require_records(self, path: Path, records: Records | None = None) -> None:
        expected = list(self.records if records is None else records)
        found = [(key, value) for key, value in self.read(path)]
        assert same(found, expected), f"read {found!r} instead of {expected!r}"

    def test_formats(self) -> None:
        """A format is its own spec's, words tell it, and a parameter that the engine does not have is refused."""
        engine = registry.get(self.target.engine)
        assert engine.name == self.source.engine == self.target.engine
        assert not self.source.same_bytes_as(self.target)
        for format in (self.source, self.target, engine.of_empty(self.target)):
            assert Format.from_spec(json.loads(json.dumps(format.to_spec()))) == format
            assert str(format)
        for wrong in ({"noSuchParameter": 1}, {"": None}):
            with pytest.raises(errors.InvalidFormat):
                Format.from_spec({engine.name: wrong})

    def test_there_and_back(self, database: Path) -> None:
        """Every record arrives, a second run finds nothing to do, and all of them come back."""
        for target in (self.target, self.source):
            result = self._convert(database, target)
            assert result.outcome is Outcome.CONVERTED
            assert result.rows == len(self.records)
            self._require_records(database)
            found = inspect(database)
            assert found.format == target
            assert (found.pending, found.backups) == ((), ())
            assert verify(database) == len(self.records)
            assert self._convert(database, target).outcome is Outcome.UNCHANGED

    def test_without_records(self, tmp_path: Path) -> None:
        """A file of 0 bytes, and one as the application makes it but without records, get their marker."""
        path = tmp_path / "database.db"
        path.touch()
        assert self._convert(path, self.target).outcome is Outcome.CONVERTED
        assert inspect(path).format == self.target
        path.unlink()
        self.write(path, [])
        assert self._convert(path, self.target).outcome is Outcome.CONVERTED
        self._require_records(path, [])

    def test_what_is_undeclared_is_refused(self, tmp_path: Path) -> None:
        """A file in the source format that is declared to be in the target is refused, and not touched."""
        path = tmp_path / "database.db"
        self.write(path, self.records)
        before = path.read_bytes()
        with pytest.raises(errors.Refused) as caught:
            convert(path, self.target, unmarked=[self.target])
        assert caught.value.hint
        assert path.read_bytes() == before

    def test_corrupted_staging_is_found(self, database: Path, tmp_path: Path) -> None:
        """A copy that lost, changed or mixed up anything never takes the database's place."""
        if not __debug__:
            pytest.skip("python -O removes the failpoints")
        converted = self._copy(database, tmp_path / "converted")
        self._convert(converted, self.target)
        some = corruptions(converted)
        assert sum(one.must_be_found for one in some) > 2, "there is no table with rows to spoil"
        for number, one in enumerate(some):
            path = self._copy(database, tmp_path / str(number))
            layout = Layout.of(path)
            spoiled: list[str] = []

            def spoil() -> None:
                (work,) = layout.pending()  # noqa: B023 - called before the next one
                one.spoil(work.staging)  # noqa: B023
                spoiled.append(one.name)  # noqa: B023

            try:
                self._convert(path, self.target, failpoints=Failpoints({_STAGED: spoil}))
            except errors.Failed as error:
                if not spoiled:
                    pytest.fail(f"could not be done: {one.name} ({error})")
                assert path.read_bytes() == database.read_bytes(), one.name
                assert layout.pending() == []
            else:
                assert not one.must_be_found, f"the verification does not find: {one.name}"
                self._require_records(path)

    def test_a_damaged_source_is_an_error_of_ours(self, database: Path) -> None:
        """Bits flipped in the database: a ``StoreError`` and not a byte changed, or a conversion; never else."""
        whole = database.read_bytes()
        for number in range(_DAMAGED_SOURCES):
            at = len(whole) * number // _DAMAGED_SOURCES
            damaged = bytearray(whole)
            damaged[at] ^= 0x20
            database.write_bytes(damaged)
            try:
                self._convert(database, self.target)
            except errors.StoreError:
                assert database.read_bytes() == damaged
            else:
                assert inspect(database).format == self.target
            assert Layout.of(database).pending() == []

    def test_a_crash_at_any_failpoint_loses_nothing(self, database: Path, tmp_path: Path) -> None:
        """Killed at each failpoint, recovery gives the old database or the new one, with every record."""
        if not __debug__:
            pytest.skip("python -O removes the failpoints")
        names = self._run(self._copy(database, tmp_path / "traced"), kill=None)
        assert {_STAGED, _SWAPPED} <= set(names)
        for name in dict.fromkeys(names):
            path = self._copy(database, tmp_path / name)
            self._run(path, kill=name)
            recover(path)
            assert Layout.of(path).pending() == [], name
            self._require_records(path)
            swapped = names.index(name) >= names.index(_SWAPPED)
            assert inspect(path).format == (self.target if swapped else None), name
            expected = None if swapped else self.source
            assert verify(path, expected=expected) == len(self.records)

    def _copy(self, database: Path, directory: Path) -> Path:
        directory.mkdir()
        path = directory / database.name
        shutil.copyfile(database, path)
        return path

    def _run(self, path: Path, *, kill: str | None) -> list[str]:
        """The failpoints that a conversion passes in a process of its own, killed at one of them or not."""
        given = {
            "import": sys.path,
            "path": str(path),
            "source": self.source.to_spec(),
            "target": self.target.to_spec(),
            "kill": kill,
        }
        done = subprocess.run(
            [sys.executable, "-P", str(_CHILD), json.dumps(given)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-9 if kill else 0), done.stderr
        return done.stdout.split()

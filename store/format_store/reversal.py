"""The way back from a conversion: another conversion, to the format before, with everything written since.

The marker tells that format: it was swapped in with the records and cannot be lost without them. Markers of
versions that did not write it there are looked up in the history, by their conversion's id.
"""

from __future__ import annotations

from format_store import conversion, errors, history, preflight, sqlitefile
from format_store.formats import Format, Marker
from format_store.results import Result
from format_store.run import Run, os_errors

_OPERATION = "undo"


def undo(run: Run) -> Result:
    """Convert back; see ``format_store.undo``."""
    conversion.recover(run)
    return conversion.convert(run, previous_format(run), ())


def previous_format(run: Run) -> Format:
    """The format before the last conversion. Raises NothingToUndo, UnreadableMarker and its kinds."""
    layout = run.layout
    if preflight.require_plain_file(layout) is None:
        raise _nothing(run, "there is no such file", "Check the path.")
    with os_errors(_OPERATION, run.primary):
        marker = sqlitefile.read_marker(layout)
    restored = _restoration(run)
    if restored is not None:
        raise _nothing(
            run,
            "the last that was done to it was a restoration, not a conversion",
            f"To take it back: storageformat backups restore {run.primary} {restored}",
        )
    if marker is None:
        raise _nothing(
            run, "it has no marker: it was never converted", "There is no conversion to take back."
        )
    found = marker.previous or _remembered(run, marker)
    if found is None:
        raise _nothing(
            run,
            "neither its marker nor its history tells what it was before",
            "Name the format to go back to: storageformat convert --to FILE --format NAME.",
        )
    return found


def _restoration(run: Run) -> str | None:
    """The backup that takes the last change back, where that was a restoration."""
    done = [
        entry
        for entry in history.read(run.primary).entries
        if entry["kind"] in ("conversion", "restoration") and entry.get("result") == "succeeded"
    ]
    if not done or done[-1]["kind"] != "restoration":
        return None
    return str(done[-1]["conversionID"])


def _remembered(run: Run, marker: Marker) -> Format | None:
    for entry in reversed(history.read(run.primary).entries):
        if (entry["kind"], entry.get("conversionID")) == ("conversion", marker.conversion_id):
            try:
                return Format.from_spec(entry["source"])
            except (KeyError, errors.InvalidFormat):
                continue
    return None


def _nothing(run: Run, why: str, hint: str) -> errors.NothingToUndo:
    return errors.NothingToUndo(
        f"there is nothing to undo: {why}",
        operation=_OPERATION,
        path=run.primary,
        hint=f"Nothing was touched. {hint}",
    )

"""An overview as text: one screen for people, one line per change for logs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from format_operator.kubectl import terminal
from format_operator.kubectl.overview import NO_REPORT, NO_SIDECAR, Backup, Overview, Place
from format_operator.kubectl.terminal import Look

#: What gives way where the screen is narrow: width of bars, phases beside them, ages of backups, gates.
_LEVELS: Final = (
    (14, True, True, True),
    (8, True, True, True),
    (8, False, True, True),
    (8, False, False, True),
    (8, False, False, False),
    (0, False, False, False),
)
_TOTAL_BAR: Final = 24
_SHORTEST_BAR: Final = 6
Row = tuple[str, str, str, str, str, str]

#: What a phase of a pod, or of a rollout, looks like.
_STYLES: Final[Mapping[str, tuple[str, ...]]] = {
    "Converted": ("green",),
    "Complete": ("green",),
    "Converting": ("cyan",),
    "Recovering": ("cyan",),
    "Restarting": ("cyan",),
    "Arming": ("cyan",),
    "Armed": ("cyan",),
    "Soaking": ("cyan",),
    "Failed": ("red", "bold"),
    "Refused": ("red", "bold"),
    "Conflict": ("red", "bold"),
    "PathNotServed": ("red", "bold"),
    "Stopped": ("red", "bold"),
    "Blocked": ("red", "bold"),
    NO_SIDECAR: ("red",),
    "Idle": ("dim",),
    NO_REPORT: ("dim",),
}
_OTHER: Final = ("yellow",)
#: Says nothing that the phase does not say.
_BUSY: Final = frozenset({"Converting", "Recovering"})
_PLAIN: Final = frozenset({"InTargetFormat", "NoPod", "Converting"})


def style(phase: str) -> tuple[str, ...]:
    return _STYLES.get(phase, _OTHER)


def screen(found: Sequence[Overview], look: Look, now: datetime) -> str:
    """All of it."""
    if not found:
        return "no StorageFormat"
    parts = ["\n".join(_one(each, look, now)) for each in found]
    return "\n\n".join(parts)


def _one(found: Overview, look: Look, now: datetime) -> Iterator[str]:
    yield from _head(found, look)
    yield ""
    yield from _table(found, look, now)


def _head(found: Overview, look: Look) -> Iterator[str]:
    place = look.sep.join((f"namespace {found.namespace}", found.path))
    yield f"{look.paint(found.name, 'bold')}{look.paint(look.sep + place, 'dim')}"
    phase = found.phase or "no word of the controller yet"
    painted = style(found.phase)
    lead = f"{look.paint(look.dot, *painted)} {look.paint(phase, *painted)}"
    stale = found.phase and found.observed < found.generation
    text = (
        "the controller has not seen the newest spec yet" if stale else _short(found, found.message)
    )
    plain = f"  {phase}  {text}"
    if text and len(plain) <= look.width:
        yield f"{lead}  {text}"
    else:
        yield lead
        if text:
            yield from look.wrap(text, 2)
    yield "  " + _total(found, look)
    yield from _conditions(found, look)


def _short(found: Overview, text: str) -> str:
    """Without what a pod says itself, further down."""
    for place in found.places:
        if place.message:
            text = text.replace(f": {place.message}", "")
    return text


def _total(found: Overview, look: Look) -> str:
    served = found.served
    done = sum(place.is_converted for place in served)
    share = sum(_share(place) for place in served) / len(served) if served else 0.0
    words = [f"{done} of {len(served)} {'pod' if len(served) == 1 else 'pods'} in {found.target}"]
    words += [
        f"{found.counts[key]} {key}" for key in ("failed", "blocked") if found.counts.get(key)
    ]
    backups = sum(place.backup is not None for place in found.places)
    words += [f"backups on {backups}"] if backups else []
    words += [] if found.strategy == "RollingRestart" else [found.strategy]
    words += ["suspended"] if found.suspended else []
    said = look.sep.join(words)
    room = max(_SHORTEST_BAR, min(_TOTAL_BAR, look.width - len(said) - 4))
    bar = look.paint(look.bar(share, room), "green" if share >= 1 else "cyan")
    return f"{bar}  {said.replace('suspended', look.paint('suspended', 'yellow'))}"


def _share(place: Place) -> float:
    """How much of that pod's work is done. The bar is full when it is, and not before."""
    if place.is_converted:
        return 1.0
    if place.progress is not None:
        # Building is about two thirds of a conversion, comparing the rest.
        part = place.progress.percent / 100
        return 0.6 * part if place.progress.phase == "building" else 0.6 + 0.3 * part
    if place.databases and place.databases["total"]:
        return place.databases["converted"] / place.databases["total"]
    return 0.0


def _conditions(found: Overview, look: Look) -> Iterator[str]:
    """Those that say more than the phase."""
    status, reason, message = found.condition("Degraded")
    if status == "True" and message in found.message:
        yield "  " + look.paint(f"Degraded {reason}", "red", "bold")
    elif status == "True":
        yield from _labelled(look, f"Degraded {reason}", _short(found, message), "red", "bold")
    elif reason == "WithinFailureBudget":
        yield from _labelled(look, "Within the failure budget", _short(found, message), "yellow")
    status, reason, message = found.condition("Ready")
    if status == "False" and reason == "SidecarMissing":
        yield from _labelled(look, "Not ready", message, "yellow")
    status, reason, message = found.condition("SafeToDropOldFormat")
    if status == "True":
        yield from _labelled(look, "Old format", "no volume holds it any more", "green")
    elif reason == "OldFormatOnVolumes":
        yield from _labelled(look, "Old format", message, "dim")


def _labelled(look: Look, label: str, text: str, *styles: str) -> Iterator[str]:
    lines = list(look.wrap(f"{label}: {text}", 2))
    first = lines[0].replace(label, look.paint(label, *styles), 1)
    yield first
    yield from lines[1:]


def _table(found: Overview, look: Look, now: datetime) -> Iterator[str]:
    if not found.places:
        yield look.paint("no pod matches the selector", "yellow")
        return
    rows = _fitting(found, look, now)
    styles = [(("dim",),) * 6, *(_styles(place) for place in found.places)]
    keep = _kept(rows)
    lines = terminal.table(
        look, _columns(rows, keep), [[one[column] for column in keep] for one in styles]
    )
    yield lines[0]
    for place, line in zip(found.places, lines[1:], strict=True):
        yield line
        yield from _why(place, look)


def _fitting(found: Overview, look: Look, now: datetime) -> list[Row]:
    """As much as fits: first the bars give way, then what is said beside them, then ages, then gates."""
    rows: list[Row] = []
    for bar, phase, ages, gates in _LEVELS:
        rows = [("POD", "FORMAT", "PHASE", "PROGRESS", "BACKUPS", "GATE" if gates else "")]
        rows += [
            (
                place.pod + ("" if place.is_there else " (no pod)"),
                _format(place, found.target, look),
                place.phase,
                _progress(place, look, bar, named=phase),
                backup_text(place.backup, now if ages else None),
                (place.gate or "").lower() if gates else "",
            )
            for place in found.places
        ]
        if terminal.width(_columns(rows, _kept(rows))) <= look.width:
            break
    return rows


def _kept(rows: Sequence[Row]) -> list[int]:
    """Columns with something in them; the first three have to be there."""
    return [n for n in range(6) if n < 3 or any(row[n].strip() for row in rows[1:])]


def _columns(rows: Sequence[Row], keep: Sequence[int]) -> list[list[str]]:
    return [[row[column] for column in keep] for row in rows]


def _styles(place: Place) -> tuple[tuple[str, ...], ...]:
    if not place.is_there:
        return (("dim",),) * 6
    gate = ("red",) if place.gate == "Closed" and place.phase not in _BUSY else ()
    return ((), (), style(place.phase), ("cyan",), (), gate)


def _format(place: Place, target: str, look: Look) -> str:
    if place.format is None:
        return "-"
    if place.format == target or not place.is_there or place.phase in {"Idle", NO_REPORT}:
        return place.format
    return f"{place.format} {look.arrow} {target}"


def _progress(place: Place, look: Look, width: int, *, named: bool) -> str:
    if place.progress is not None and place.phase in _BUSY:
        bar = look.bar(place.progress.percent / 100, width)
        phase = f" {place.progress.phase}" if named else ""
        return f"{bar} {place.progress.percent:>3}%{phase}".lstrip()
    if place.databases and place.databases["total"]:
        return f"{place.databases['converted']} of {place.databases['total']} databases"
    return ""


def backup_text(backup: Backup | None, now: datetime | None) -> str:
    """How many, how much, and (with ``now``) how old."""
    if backup is None:
        return ""
    count = f"{backup.count} x " if backup.count and backup.count > 1 else ""
    parts = [
        f"{count}{terminal.size(backup.size)}",
        terminal.age(backup.created_at, now) if now else "",
    ]
    parts += ["pinned"] if backup.pinned else []
    return ", ".join(part for part in parts if part)


def _why(place: Place, look: Look) -> Iterator[str]:
    """What is waited for, and why; nothing where all is well."""
    if place.failures:
        shown = [f"{path}: {reason}: {message}" for path, reason, message in place.failures]
        for line in shown:
            yield from (look.paint(one, "dim") for one in look.wrap(line, 4))
        return
    says_more = place.message and place.reason not in _PLAIN
    if place.is_converted or not says_more:
        return
    text = f"{place.reason}: {place.message}" if place.reason else place.message
    yield from (look.paint(one, "dim") for one in look.wrap(text, 4))


# --- in so many lines, and line by line ---------------------------------------------------------------------


def fitted(text: str, look: Look, clock: str) -> str:
    """What fits on the terminal without scrolling; what does not is counted."""
    lines = text.splitlines()
    room = (look.height or 1000) - 2
    if len(lines) > room:
        lines = [
            *lines[: room - 1],
            f"{len(lines) - room + 1} more lines; a taller window shows them",
        ]
    return "\n".join([*lines, "", look.paint(f"{clock}  Ctrl-C ends this", "dim")])


def facts(found: Iterable[Overview]) -> dict[str, str]:
    """One line for each thing that can change, by what it is about."""
    lines: dict[str, str] = {}
    for one in found:
        key = f"{one.namespace}/{one.name}"
        parts = [one.phase or "no word of the controller yet", one.message]
        lines[key] = " ".join(part for part in parts if part)
        for place in one.places:
            lines[f"{key} {place.pod}"] = _fact(place)
    return lines


def _fact(place: Place) -> str:
    parts = [place.phase if place.is_there else "no pod"]
    parts += [f"in {place.format}"] if place.format else []
    if place.progress is not None:
        # A line for every per cent would bury the rest.
        parts.append(f"{place.progress.phase} {place.progress.percent // 10 * 10}%")
    elif place.message and not place.is_converted and place.reason not in _PLAIN:
        parts.append(f"{place.reason}: {place.message}" if place.reason else place.message)
    return " ".join(parts)

"""What is to be done: every rule of the gate, of permits and of the skew guard, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from format_operator.api.models import OnFailure, Permit, Phase
from format_operator.sidecar.decide import Planned, decide, remember
from format_operator.sidecar.observed import (
    Answer,
    Asked,
    Disk,
    Failure,
    FailureKind,
    File,
    Observed,
    Rival,
)
from format_operator.sidecar.wish import Stored, Wish
from format_store import PLAIN_SQLITEDICT, Format
from tests.support.objects import storageformat

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PATH = "/data/orders.db"
V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
ELSE = Format.sqlitedict(value_codec="json")


def wish(**changes: Any) -> Wish:
    return Wish.from_object(storageformat(**{"metadata__uid": "u1", **changes}))


ROLLING = wish()
ON_RESTART = wish(spec__rollout={"strategy": "OnRestart"})
SUSPENDED = wish(spec__rollout={"strategy": "OnRestart", "suspended": True})
START_APP = wish(spec__rollout={"strategy": "OnRestart"}, spec__onFailure="StartApp")
DELETING = wish(metadata__deletionTimestamp="2026-11-23T11:59:00Z")
ELSEWHERE = wish(spec__database__path="/data/other.db")
BACK = wish(spec__target="v1", spec__rollout={"strategy": "OnRestart"})

GOOD = Permit(ROLLING.target_hash, NOW + timedelta(minutes=10))
EXPIRED = Permit(ROLLING.target_hash, NOW - timedelta(seconds=1))
OTHER = Permit("0123456789abcdef", NOW + timedelta(minutes=10))

OLD = File(PATH, Disk.UNMARKED)
OLD_MARKED = File(PATH, Disk.MARKED, PLAIN_SQLITEDICT)
DONE = File(PATH, Disk.MARKED, V2)
UNNAMED = File(PATH, Disk.MARKED, ELSE)
EMPTY = File(PATH, Disk.EMPTY)
ABSENT = File(PATH, Disk.ABSENT)
PENDING = replace(OLD, pending=True)


def failed(kind: FailureKind, reason: str = "Why", **more: Any) -> File:
    return replace(OLD, failure=Failure(kind, reason, "because", **more))


REFUSED = failed(FailureKind.REFUSED, retry_in=5.0)
BUSY_ONCE = failed(FailureKind.TRY_AGAIN, "InUse", retry_in=1.0)
BUSY_DUE = failed(FailureKind.TRY_AGAIN, "InUse", retry_in=0.0)
BUSY_LONG = failed(FailureKind.TRY_AGAIN, "InUse", retry_in=1.0, attempts=3)
LOCKED_LONG = failed(FailureKind.TRY_AGAIN, "Locked", retry_in=1.0, attempts=9)
DUE = failed(FailureKind.FAILED, retry_in=0.0)
ATTENTION = replace(
    DONE, failure=Failure(FailureKind.ATTENTION, "PrimaryUnsound", "look", retry_in=60.0)
)


def found(value: Wish) -> Answer[Wish]:
    return Answer(Asked.FOUND, value)


def permitted(value: Permit | None) -> Answer[Permit]:
    return Answer(Asked.FOUND, value)


AWAY: Answer[Any] = Answer(Asked.UNREACHABLE, None, "no answer in time")
DENIED: Answer[Any] = Answer(Asked.FORBIDDEN, None, "may not `get storageformats`")
NONE: Answer[Any] = Answer(Asked.ABSENT, None, "there is no StorageFormat orders")
UNSERVED: Answer[Any] = Answer(Asked.UNSERVED, None, "the kind is not installed")
NO_PERMIT = permitted(None)

AT_GATE = Observed(
    now=NOW,
    argument=PATH,
    at_gate=True,
    gate_seconds=1.0,
    permit_wait=30.0,
    api_wait=10.0,
    reads=None,
    storageformat=found(ROLLING),
    permit=NO_PERMIT,
    stored=None,
    files=(OLD,),
)
RUNNING = replace(AT_GATE, at_gate=False, gate_seconds=0.0)


@dataclass
class Case:
    """``gate`` is what it does: convert, open or closed; ``says`` stands in the message."""

    id: str
    observed: Observed
    gate: str
    phase: Phase
    reason: str
    says: str = ""
    wakes: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def at_gate(**changes: Any) -> Observed:
    return replace(AT_GATE, **changes)


def on_restart(**changes: Any) -> Observed:
    return replace(AT_GATE, storageformat=found(ON_RESTART), **changes)


def reading(*names: str) -> dict[str, Any]:
    return {"reads": frozenset(names)}


CONVERTED_FROM_V1 = replace(DONE, previous=PLAIN_SQLITEDICT)


def rolled_back(file: File, *reads: str, following: bool = False, **changes: Any) -> Observed:
    """An app that reads v1 (or these) meets ``file``; the StorageFormat has four formats and the target v2."""
    formats = [
        {"name": "v1", "sqlitedict": {}},
        {"name": "v2", "sqlitedict": V2.to_spec()["sqlitedict"]},
        {"name": "v0", "sqlitedict": {"valueCodec": "json"}},
        {"name": "oxia", "sqlitedict": {"keyEncoding": "old-compare-hierarchical"}},
    ]
    policy = {"spec__onAppRollback": "ConvertBack"} if following else {}
    asked = found(wish(spec__formats=formats, **policy, **changes))
    return replace(AT_GATE, storageformat=asked, files=(file,), reads=frozenset(reads or {"v1"}))


STORED_GOOD = Stored(ROLLING, GOOD)
FULL = ("OutOfSpace", "no space")

GATE_CASES = [
    # no StorageFormat that applies
    Case("absent", at_gate(storageformat=NONE), "open", Phase.IDLE, "NoStorageFormat"),
    Case("unserved", at_gate(storageformat=UNSERVED), "open", Phase.IDLE, "NoStorageFormat"),
    Case(
        "deleting",
        at_gate(storageformat=found(DELETING)),
        "open",
        Phase.IDLE,
        "StorageFormatDeleted",
    ),
    Case(
        "another path",
        at_gate(storageformat=found(ELSEWHERE)),
        "open",
        Phase.PATH_NOT_SERVED,
        "PathNotServed",
        "/data/other.db",
    ),
    Case(
        "older rival",
        at_gate(rival=Rival.OLDER, rival_name="first"),
        "open",
        Phase.CONFLICT,
        "Conflict",
        "first",
    ),
    Case(
        "rival unknown yet",
        on_restart(rival=Rival.UNDECIDED),
        "closed",
        Phase.WAITING,
        "AskingAPI",
        wakes=9.0,
    ),
    Case(
        "rival unknown for long",
        on_restart(rival=Rival.UNDECIDED, gate_seconds=10.0),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "not understood, Block",
        at_gate(storageformat=Answer(Asked.INVALID, None, "spec.target: no")),
        "closed",
        Phase.REFUSED,
        "InvalidStorageFormat",
        "spec.target: no",
    ),
    Case(
        "not understood, StartApp",
        at_gate(storageformat=Answer(Asked.INVALID, None, "spec.target: no", OnFailure.START_APP)),
        "open",
        Phase.REFUSED,
        "InvalidStorageFormat",
    ),
    # nothing to convert
    Case("no file", at_gate(files=(ABSENT,)), "open", Phase.IDLE, "NoDatabase"),
    Case("glob without a match", at_gate(files=()), "open", Phase.IDLE, "NoDatabase"),
    Case(
        "no file, and the API has not answered",
        at_gate(files=(ABSENT,), storageformat=Answer()),
        "open",
        Phase.WAITING,
        "AskingAPI",
    ),
    Case("in the target", at_gate(files=(DONE,)), "open", Phase.CONVERTED, "InTargetFormat"),
    Case(
        "in the target, suspended",
        at_gate(storageformat=found(SUSPENDED), files=(DONE,)),
        "open",
        Phase.CONVERTED,
        "InTargetFormat",
    ),
    # OnRestart and permits
    Case("OnRestart", on_restart(), "convert", Phase.CONVERTING, "Converting"),
    Case(
        "OnRestart, the way back",
        at_gate(storageformat=found(BACK), files=(DONE,)),
        "convert",
        Phase.CONVERTING,
        "Converting",
        "v1",
    ),
    Case(
        "suspended",
        at_gate(storageformat=found(SUSPENDED)),
        "open",
        Phase.IDLE,
        "Suspended",
        "v1",
    ),
    Case("permit", at_gate(permit=permitted(GOOD)), "convert", Phase.CONVERTING, "Converting"),
    Case("no permit yet", at_gate(), "closed", Phase.WAITING, "NoPermit", wakes=29.0),
    Case(
        "no permit in time",
        at_gate(gate_seconds=30.0),
        "open",
        Phase.RESTART_REQUIRED,
        "NoPermit",
        "starts on v1",
    ),
    Case(
        "permit expired",
        at_gate(permit=permitted(EXPIRED)),
        "closed",
        Phase.WAITING,
        "PermitExpired",
    ),
    Case(
        "permit for another target",
        at_gate(permit=permitted(OTHER)),
        "closed",
        Phase.WAITING,
        "PermitForAnotherTarget",
        ROLLING.target_hash,
    ),
    Case(
        "stored permit, withdrawn since",
        at_gate(stored=STORED_GOOD),
        "closed",
        Phase.WAITING,
        "NoPermit",
    ),
    Case(
        "stored permit, the API says another target",
        at_gate(stored=STORED_GOOD, permit=permitted(OTHER)),
        "closed",
        Phase.WAITING,
        "PermitForAnotherTarget",
    ),
    Case(
        "empty database needs no permit",
        at_gate(files=(EMPTY,)),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "empty database, suspended",
        at_gate(files=(EMPTY,), storageformat=found(SUSPENDED)),
        "open",
        Phase.IDLE,
        "Suspended",
    ),
    # the API is away
    Case(
        "asking",
        at_gate(storageformat=Answer(), permit=Answer()),
        "closed",
        Phase.WAITING,
        "AskingAPI",
        wakes=9.0,
    ),
    Case(
        "away, still waiting, though a permit is stored",
        at_gate(storageformat=AWAY, permit=AWAY, stored=STORED_GOOD),
        "closed",
        Phase.WAITING,
        "AskingAPI",
    ),
    Case(
        "away, stored permit",
        at_gate(storageformat=AWAY, permit=AWAY, stored=STORED_GOOD, gate_seconds=10.0),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "away, stored permit expired",
        at_gate(
            storageformat=AWAY, permit=AWAY, stored=Stored(ROLLING, EXPIRED), gate_seconds=10.0
        ),
        "open",
        Phase.RESTART_REQUIRED,
        "APIUnreachable",
        "expired",
    ),
    Case(
        "away, stored permit for another target",
        at_gate(storageformat=AWAY, permit=AWAY, stored=Stored(ROLLING, OTHER), gate_seconds=10.0),
        "open",
        Phase.RESTART_REQUIRED,
        "APIUnreachable",
        "is for target",
    ),
    Case(
        "away, nothing stored",
        at_gate(storageformat=AWAY, permit=AWAY, gate_seconds=10.0),
        "open",
        Phase.IDLE,
        "APIUnreachable",
        "no answer in time",
    ),
    Case(
        "away, OnRestart stored",
        at_gate(storageformat=AWAY, permit=AWAY, stored=Stored(ON_RESTART), gate_seconds=10.0),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "away, suspended stored",
        at_gate(storageformat=AWAY, permit=AWAY, stored=Stored(SUSPENDED), gate_seconds=10.0),
        "open",
        Phase.IDLE,
        "Suspended",
    ),
    Case(
        "forbidden, no permit stored",
        at_gate(storageformat=DENIED, permit=DENIED, stored=Stored(ROLLING), gate_seconds=10.0),
        "open",
        Phase.RESTART_REQUIRED,
        "APIForbidden",
        "get storageformats",
    ),
    Case(
        "only the permit is forbidden, OnRestart",
        on_restart(permit=DENIED),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "only the permit is forbidden, waiting",
        at_gate(permit=DENIED),
        "closed",
        Phase.WAITING,
        "AskingAPI",
        wakes=9.0,
    ),
    Case(
        "only the permit is forbidden, one stored",
        at_gate(permit=DENIED, stored=STORED_GOOD, gate_seconds=10.0),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "only the permit is forbidden, none stored",
        at_gate(permit=DENIED, gate_seconds=10.0),
        "open",
        Phase.RESTART_REQUIRED,
        "APIForbidden",
    ),
    # what the app reads
    Case(
        "target unreadable, present readable",
        on_restart(**reading("v1")),
        "open",
        Phase.REFUSED,
        "SkewBlocked",
        "reads v1",
    ),
    Case(
        "target and present unreadable",
        on_restart(**reading("v3")),
        "closed",
        Phase.REFUSED,
        "SkewBlocked",
        "gate stays closed",
    ),
    Case(
        "app rolled back",
        rolled_back(CONVERTED_FROM_V1),
        "closed",
        Phase.REFUSED,
        "SkewBlocked",
        "gate stays closed",
    ),
    Case(
        "app rolled back, may be followed",
        rolled_back(CONVERTED_FROM_V1, following=True),
        "convert",
        Phase.CONVERTING,
        "ConvertingBack",
        "converting back to v1: the app reads v1, the database is in v2",
        extra={"convert": (Planned(PATH, "v1"),)},
    ),
    Case(
        "app rolled back, may be followed, no marker tells what was before",
        rolled_back(DONE, "v1", "v0", following=True),
        "convert",
        Phase.CONVERTING,
        "ConvertingBack",
        extra={"convert": (Planned(PATH, "v0"),)},
    ),
    Case(
        "app rolled back, may be followed, to the format before although another comes later",
        rolled_back(CONVERTED_FROM_V1, "v1", "v0", following=True),
        "convert",
        Phase.CONVERTING,
        "ConvertingBack",
        extra={"convert": (Planned(PATH, "v1"),)},
    ),
    Case(
        "app rolled back, may be followed, reads nothing that can be written",
        rolled_back(DONE, "v9", "oxia", following=True),
        "closed",
        Phase.REFUSED,
        "SkewBlocked",
    ),
    Case(
        "app rolled back, may be followed, but suspended",
        rolled_back(CONVERTED_FROM_V1, following=True, spec__rollout={"suspended": True}),
        "closed",
        Phase.REFUSED,
        "SkewBlocked",
    ),
    Case(
        "app rolled back, the way back failed",
        rolled_back(
            replace(
                CONVERTED_FROM_V1,
                failure=Failure(FailureKind.FAILED, "OutOfSpace", "full", retry_in=5.0),
            ),
            following=True,
        ),
        "closed",
        Phase.FAILED,
        "OutOfSpace",
        "full (on the way back to v1)",
        wakes=5.0,
    ),
    Case(
        "app rolled back, is back",
        rolled_back(OLD_MARKED, following=True),
        "open",
        Phase.REFUSED,
        "SkewBlocked",
        "the app starts on v1",
    ),
    Case(
        "app rolled back with its target",
        rolled_back(CONVERTED_FROM_V1, following=True, spec__target="v1"),
        "closed",
        Phase.WAITING,
        "NoPermit",
    ),
    Case(
        "app that tells nothing of what it reads",
        replace(rolled_back(CONVERTED_FROM_V1, following=True), reads=None),
        "open",
        Phase.CONVERTED,
        "InTargetFormat",
    ),
    Case(
        "present unreadable, conversion allowed",
        on_restart(**reading("v2")),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "present unreadable, no permit in time",
        at_gate(gate_seconds=31.0, **reading("v2")),
        "closed",
        Phase.WAITING,
        "NoPermitAndUnreadable",
        "reads v2",
    ),
    Case(
        "present unreadable, API away",
        at_gate(
            storageformat=AWAY,
            permit=AWAY,
            stored=Stored(ROLLING),
            gate_seconds=10.0,
            **reading("v2"),
        ),
        "closed",
        Phase.WAITING,
        "APIUnreachableAndUnreadable",
    ),
    Case(
        "present has no name",
        at_gate(gate_seconds=31.0, files=(UNNAMED,), **reading("v1", "v2")),
        "closed",
        Phase.WAITING,
        "NoPermitAndUnreadable",
    ),
    Case(
        "present has no name, no guard",
        at_gate(gate_seconds=31.0, files=(UNNAMED,)),
        "open",
        Phase.RESTART_REQUIRED,
        "NoPermit",
    ),
    Case(
        "marked, matched by bytes",
        at_gate(gate_seconds=31.0, files=(OLD_MARKED,), **reading("v1", "v2")),
        "open",
        Phase.RESTART_REQUIRED,
        "NoPermit",
        "starts on v1",
    ),
    Case(
        "in the target, unreadable",
        at_gate(files=(DONE,), **reading("v1")),
        "closed",
        Phase.REFUSED,
        "SkewBlocked",
        "gate stays closed",
    ),
    Case(
        "in the target, readable",
        at_gate(files=(DONE,), **reading("v1", "v2")),
        "open",
        Phase.CONVERTED,
        "InTargetFormat",
    ),
    Case(
        "empty, target unreadable",
        at_gate(files=(EMPTY,), **reading("v1")),
        "open",
        Phase.REFUSED,
        "SkewBlocked",
    ),
    # failures
    Case("refused, Block", on_restart(files=(REFUSED,)), "closed", Phase.REFUSED, "Why", wakes=5.0),
    Case(
        "failed, due again",
        on_restart(files=(DUE,)),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "failed, Block, and the permit ran out",
        at_gate(files=(DUE,), gate_seconds=99.0),
        "closed",
        Phase.FAILED,
        "Why",
        "no permit",
    ),
    Case(
        "in use, and the permit ran out",
        at_gate(files=(BUSY_DUE,), gate_seconds=99.0),
        "open",
        Phase.RESTART_REQUIRED,
        "NoPermit",
    ),
    Case(
        "refused, StartApp",
        at_gate(storageformat=found(START_APP), files=(REFUSED,)),
        "open",
        Phase.REFUSED,
        "Why",
        "starts on v1",
    ),
    Case(
        "refused, StartApp, unreadable",
        at_gate(storageformat=found(START_APP), files=(REFUSED,), **reading("v2")),
        "closed",
        Phase.REFUSED,
        "Why",
        "gate stays closed",
        wakes=5.0,
    ),
    Case(
        "refused, StartApp, unreadable, due",
        at_gate(
            storageformat=found(START_APP),
            files=(failed(FailureKind.REFUSED, retry_in=0.0),),
            **reading("v2"),
        ),
        "convert",
        Phase.CONVERTING,
        "Converting",
    ),
    Case(
        "in use once, StartApp",
        at_gate(storageformat=found(START_APP), files=(BUSY_ONCE,)),
        "closed",
        Phase.WAITING,
        "InUse",
        wakes=1.0,
    ),
    Case(
        "in use for long, StartApp",
        at_gate(storageformat=found(START_APP), files=(BUSY_LONG,)),
        "open",
        Phase.WAITING,
        "InUse",
    ),
    Case(
        "locked for long, StartApp: somebody is converting it",
        at_gate(storageformat=found(START_APP), files=(LOCKED_LONG,)),
        "closed",
        Phase.WAITING,
        "Locked",
    ),
    # what never opens
    Case("pending", on_restart(files=(PENDING,)), "closed", Phase.RECOVERING, "RecoveryPending"),
    Case(
        "pending, no StorageFormat",
        at_gate(storageformat=NONE, files=(PENDING,)),
        "closed",
        Phase.RECOVERING,
        "RecoveryPending",
    ),
    Case(
        "pending, StartApp",
        at_gate(storageformat=found(START_APP), files=(replace(REFUSED, pending=True),)),
        "closed",
        Phase.FAILED,
        "Why",
    ),
    Case(
        "needs a person",
        at_gate(storageformat=found(START_APP), files=(ATTENTION,)),
        "closed",
        Phase.FAILED,
        "PrimaryUnsound",
        wakes=60.0,
    ),
    Case(
        "needs a person, no StorageFormat",
        at_gate(storageformat=NONE, files=(ATTENTION,)),
        "closed",
        Phase.FAILED,
        "PrimaryUnsound",
    ),
]


@pytest.mark.parametrize("case", GATE_CASES, ids=lambda case: case.id)
def test_at_the_gate(case: Case) -> None:
    """While a gate is connected, each situation leads to one of: convert, open, closed and why."""
    action = decide(case.observed)
    did = "convert" if action.convert else "open" if action.gate_open else "closed"
    assert (did, action.phase, action.reason) == (case.gate, case.phase, case.reason), action
    assert case.says in action.message
    if case.wakes is not None:
        assert action.wake_in == pytest.approx(case.wakes)
    if action.convert:
        assert not action.gate_open
    for name, value in case.extra.items():
        assert getattr(action, name) == value


RUNNING_CASES = [
    Case("changed", RUNNING, "", Phase.RESTART_REQUIRED, "AppRunning", "permit"),
    Case(
        "changed, OnRestart",
        replace(RUNNING, storageformat=found(ON_RESTART)),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case(
        "permit stored",
        replace(RUNNING, permit=permitted(GOOD), stored=STORED_GOOD),
        "",
        Phase.ARMED,
        "Permitted",
        wakes=600.0,
        extra={"armed_for": ROLLING.target_hash},
    ),
    Case(
        "permit not stored yet",
        replace(RUNNING, permit=permitted(GOOD)),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case(
        "permit that the volume does not take",
        replace(RUNNING, permit=permitted(GOOD), unstored=FULL),
        "",
        Phase.FAILED,
        "OutOfSpace",
        "the permit to convert cannot be stored on the volume: no space",
        wakes=5.0,
        extra={"restart_required": True},
    ),
    Case(
        "expired permit that the volume does not take",
        replace(RUNNING, permit=permitted(EXPIRED), unstored=FULL),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case(
        "full volume, no permit needed",
        replace(RUNNING, storageformat=found(ON_RESTART), permit=permitted(GOOD), unstored=FULL),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case(
        "stored permit, withdrawn",
        replace(RUNNING, stored=STORED_GOOD),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case(
        "stored permit, API away",
        replace(RUNNING, storageformat=AWAY, permit=AWAY, stored=STORED_GOOD),
        "",
        Phase.ARMED,
        "Permitted",
    ),
    Case(
        "stored permit expired",
        replace(RUNNING, permit=permitted(EXPIRED), stored=Stored(ROLLING, EXPIRED)),
        "",
        Phase.RESTART_REQUIRED,
        "AppRunning",
    ),
    Case("in the target", replace(RUNNING, files=(DONE,)), "", Phase.CONVERTED, "InTargetFormat"),
    Case("no file", replace(RUNNING, files=(ABSENT,)), "", Phase.IDLE, "NoDatabase"),
    Case(
        "suspended",
        replace(RUNNING, storageformat=found(SUSPENDED)),
        "",
        Phase.IDLE,
        "Suspended",
    ),
    Case("skew", replace(RUNNING, reads=frozenset({"v1"})), "", Phase.REFUSED, "SkewBlocked"),
    Case(
        "started after a failure",
        replace(RUNNING, storageformat=found(START_APP), files=(REFUSED,)),
        "",
        Phase.REFUSED,
        "Why",
    ),
    Case(
        "pending, no gate",
        replace(RUNNING, files=(PENDING,)),
        "",
        Phase.RECOVERING,
        "RecoveryPending",
    ),
    Case(
        "why it was started on the old format is not forgotten",
        replace(RUNNING, opened_because=("APIForbidden", "may not get")),
        "",
        Phase.RESTART_REQUIRED,
        "APIForbidden",
        "may not get",
    ),
    Case(
        "API away, nothing stored",
        replace(RUNNING, storageformat=AWAY),
        "",
        Phase.IDLE,
        "APIUnreachable",
    ),
]


@pytest.mark.parametrize("case", RUNNING_CASES, ids=lambda case: case.id)
def test_while_the_app_may_run(case: Case) -> None:
    """Without a gate nothing is ever converted; the phase says what a restart would do."""
    action = decide(case.observed)
    assert (action.phase, action.reason) == (case.phase, case.reason), action
    assert action.convert == ()
    assert case.says in action.message
    if case.wakes is not None:
        assert action.wake_in == pytest.approx(case.wakes)
    for name, value in case.extra.items():
        assert getattr(action, name) == value
    wants_restart = case.phase in {Phase.ARMED, Phase.RESTART_REQUIRED} or case.id.startswith(
        "started"
    )
    assert action.restart_required is case.extra.get("restart_required", wants_restart)


def test_files_of_a_glob_go_one_by_one() -> None:
    """What can be converted is, whatever the others do; one that is held keeps the gate closed."""
    files = tuple(
        replace(one, path=f"/data/{name}.db")
        for name, one in [("a", OLD), ("b", ATTENTION), ("c", DONE), ("d", EMPTY)]
    )
    glob = wish(spec__database__path="/data/*.db", spec__rollout={"strategy": "OnRestart"})
    observed = replace(AT_GATE, argument="/data/*.db", storageformat=found(glob), files=files)
    action = decide(observed)
    assert [one.path for one in action.convert] == ["/data/a.db", "/data/d.db"]
    settled = decide(replace(observed, files=(files[1], files[2])))
    assert not settled.gate_open
    assert (settled.phase, settled.reason) == (Phase.FAILED, "PrimaryUnsound")


REMEMBER_CASES: list[tuple[str, Observed, Stored | None]] = [
    ("new word", AT_GATE, Stored(ROLLING)),
    ("permit", replace(AT_GATE, permit=permitted(GOOD)), STORED_GOOD),
    ("permit withdrawn", replace(AT_GATE, stored=STORED_GOOD), Stored(ROLLING)),
    ("permit useless", replace(AT_GATE, permit=permitted(OTHER)), Stored(ROLLING)),
    ("permit unknown", replace(AT_GATE, permit=AWAY, stored=STORED_GOOD), STORED_GOOD),
    ("API away", replace(AT_GATE, storageformat=AWAY, stored=STORED_GOOD), STORED_GOOD),
    ("deleted", replace(AT_GATE, storageformat=NONE, stored=STORED_GOOD), None),
    ("being deleted", replace(AT_GATE, storageformat=found(DELETING), stored=STORED_GOOD), None),
    ("another path", replace(AT_GATE, storageformat=found(ELSEWHERE), stored=STORED_GOOD), None),
    (
        "not understood",
        replace(AT_GATE, storageformat=Answer(Asked.INVALID), stored=STORED_GOOD),
        STORED_GOOD,
    ),
    ("younger than a rival", replace(AT_GATE, rival=Rival.OLDER), None),
]


@pytest.mark.parametrize(
    ("observed", "expected"),
    [pytest.param(observed, expected, id=name) for name, observed, expected in REMEMBER_CASES],
)
def test_what_the_volume_remembers(observed: Observed, expected: Stored | None) -> None:
    """The API's last word is stored; silence changes nothing; a deleted StorageFormat is forgotten."""
    assert remember(observed) == expected


def test_stored_word_survives_the_volume() -> None:
    """What was stored is read back as it was, and anything else is nothing."""
    assert Stored.from_document(STORED_GOOD.to_document()) == STORED_GOOD
    assert Stored.from_document(None) is None
    assert Stored.from_document({"version": 2, "storageFormat": dict(ROLLING.raw)}) is None
    assert Stored.from_document({"version": 1, "storageFormat": {"spec": 7}}) is None
    document = STORED_GOOD.to_document()
    assert Stored.from_document({**document, "permit": {"targetHash": "x"}}) is None


def test_unknown_formats_beside_the_target_are_passed_over() -> None:
    """An older sidecar goes on working when somebody adds a format that only newer ones know."""
    body = storageformat()
    body["spec"]["formats"].append({"name": "v9", "rocksdb": {"level": 3}})
    parsed = Wish.from_object(body)
    assert [name for name, _ in parsed.named] == ["v1", "v2"]
    assert parsed.target_hash == Wish.from_object(storageformat()).target_hash

"""What `kubectl storageformat status` shows."""

from __future__ import annotations

from typing import Any

import pytest

from format_operator.kubectl import screen, terminal
from format_operator.kubectl.overview import overview
from format_operator.kubectl.terminal import Look
from tests.kubectl.scenes import NOW, body, condition, midway, pod, rollout, state

HEAD = """\
orders · namespace shop · /data/orders.db
● Converting  pod orders-1 is converting
  ██████████░░░░░░░░░░░░░░  1 of 3 pods in v2 · backups on 1
  Not ready: orders-3: no sidecar for this StorageFormat
  Old format: volumes still hold: v1 on 3

"""
WIDE = """\
POD                FORMAT   PHASE            PROGRESS                      BACKUPS                  GATE
orders-0           v1 → v2  RestartRequired                                                         open
    AppRunning: v2 needs a restart and a permit
orders-1           v1 → v2  Converting       ██████░░░░░░░░  48% building                           closed
orders-2           v2       Converted                                      2 x 31.6 MB, 2m, pinned  open
orders-3           -        NoSidecar
    no sidecar for this StorageFormat: annotate the pod's template with storageformat.dev/inject: orders
    (docs/install.md)
orders-5 (no pod)  v2       Converted"""
NARROW = """\
POD                FORMAT   PHASE            PROGRESS       BACKUPS
orders-0           v1 → v2  RestartRequired
    AppRunning: v2 needs a restart and a permit
orders-1           v1 → v2  Converting       ███░░░░░  48%
orders-2           v2       Converted                       2 x 31.6 MB, pinned
orders-3           -        NoSidecar
    no sidecar for this StorageFormat: annotate the pod's template with
    storageformat.dev/inject: orders (docs/install.md)
orders-5 (no pod)  v2       Converted"""


@pytest.mark.parametrize(("width", "table"), [(120, WIDE), (80, NARROW)])
def test_one_screen(width: int, table: str) -> None:
    """Target, phase, conditions that say more; a line per pod and volume, and below it why it waits. What there is no
    room for gives way: width of bars, ages, gates."""
    assert screen.screen([midway()], Look(width=width), NOW) == HEAD + table


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_it_fits(width: int) -> None:
    """However narrow the terminal: no line is wider, and the pods' names and phases stay."""
    drawn = screen.screen([midway()], Look(width=width), NOW)
    assert max(map(len, drawn.splitlines())) <= width
    for word in ("orders-1 ", "RestartRequired", "48%", "31.6 MB"):
        assert word in drawn


def test_colours_and_characters_are_only_where_they_can_be_shown() -> None:
    """Without colour there is no escape sequence; without Unicode nothing but ASCII."""
    plain = screen.screen([midway()], Look(width=120, unicode=False), NOW)
    assert plain.isascii()
    assert "\x1b" not in plain
    coloured = screen.screen([midway()], Look(width=120, color=True), NOW)
    assert "\x1b[31m" in coloured
    assert strip(coloured) == screen.screen([midway()], Look(width=120), NOW)


def strip(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_no_color_and_dumb_terminals_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, TERM=dumb and a pipe have no colours; a terminal has."""

    class Terminal:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    stream: Any = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.of(stream).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.of(stream).color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.of(stream).color


def test_a_report_cannot_steer_the_terminal() -> None:
    """Control characters that a pod reports are shown as blanks."""
    evil = state("orders-0", "Failed", reason="X", message="a\x1b[2Jb\x07\r\nc\u202ed")
    drawn = screen.screen(
        [overview(body(), [evil], [pod("orders-0")])], Look(width=120, color=True), NOW
    )
    assert "X: a [2Jb c d" in strip(drawn)
    assert "\x1b[2J" not in drawn


STOPPED = """\
orders · namespace shop · /data/orders.db
● Stopped  1 failed, 0 may: pod orders-0: InsufficientSpace
  ░░░░░░░░  0 of 1 pod in v2 · 1 failed · 1 blocked · OnRestart · suspended
  Degraded FailureBudgetSpent

POD       FORMAT   PHASE    GATE
orders-0  v1 → v2  Refused  closed
    InsufficientSpace: needs 3 GB. Make room"""


def test_what_is_bad_is_said_first_and_once() -> None:
    """A spent failure budget is told with the pod and its reason; the rest of it stands beside the pod alone."""
    why = "pod orders-0: InsufficientSpace: needs 3 GB. Make room"
    status = rollout(
        "Stopped",
        f"1 failed, 0 may: {why}",
        conditions=[condition("Degraded", "True", "FailureBudgetSpent", why)],
        failed=1,
        blocked=1,
    )
    failed = state(
        "orders-0",
        "Refused",
        reason="InsufficientSpace",
        message="needs 3 GB. Make room",
        gate="Closed",
    )
    steered = {"suspended": True, "strategy": "OnRestart"}
    found = overview(body(status=status, spec__rollout=steered), [failed], [pod("orders-0")])
    assert screen.screen([found], Look(width=75), NOW) == STOPPED
    coloured = screen.screen([found], Look(width=75, color=True), NOW)
    assert strip(coloured) == STOPPED


def test_a_glob_is_counted_and_its_failures_told() -> None:
    """Several databases of a pod are one line with counts; each failure is a line below it."""
    several = {
        "total": 20,
        "converted": 12,
        "pending": 8,
        "failed": 1,
        "firstFailures": [{"database": "/data/t/a.db", "reason": "InUse", "message": "is open"}],
    }
    found = overview(
        body(),
        [state("orders-0", "Failed", databases=several)],
        [pod("orders-0", path="/data/t/*.db")],
    )
    drawn = screen.screen([found], Look(width=100), NOW)
    assert "12 of 20 databases" in drawn
    assert "    /data/t/a.db: InUse: is open" in drawn


def test_what_kubernetes_says_is_told_where_no_sidecar_can() -> None:
    """A pod whose sidecar has no word yet is explained by its containers, or by the scheduler."""
    stuck = pod("orders-0")
    stuck["status"] = {
        "initContainerStatuses": [
            {
                "name": "storageformat",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m"}},
            }
        ]
    }
    homeless = pod("orders-1")
    homeless["status"] = {
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]
    }
    drawn = screen.screen([overview(body(), [], [stuck, homeless])], Look(width=100), NOW)
    assert "container storageformat: ImagePullBackOff m" in drawn
    assert "not scheduled: 0/1 nodes" in drawn


def test_a_pod_that_the_webhook_has_missed_is_told() -> None:
    """It asks for the sidecar and has none: its template is right, and a restart is all that it takes."""
    missed = pod("orders-0", sidecar=False)
    missed["metadata"]["annotations"] = {
        "storageformat.dev/inject": "users, orders=/data/orders.db"
    }
    (place,) = overview(body(), [], [missed]).places
    assert place.phase == "NoSidecar"
    assert "kubectl delete pod orders-0" in place.message


def test_a_report_of_the_pod_before_is_not_this_ones() -> None:
    """A new pod under an old name has not reported; its volume's format is still known."""
    old = state("orders-0", "Converted", podUID="another")
    (place,) = overview(body(), [old], [pod("orders-0")]).places
    assert (place.phase, place.format, place.is_converted) == ("NoReport", "v2", False)


def test_others_are_passed_over() -> None:
    """Pods that the selector does not match, that have ended, or are of another namespace; FormatStates likewise."""
    other = pod("orders-1")
    other["metadata"]["labels"] = {"app": "else"}
    ended = pod("orders-2")
    ended["status"]["phase"] = "Succeeded"
    elsewhere = pod("orders-3")
    elsewhere["metadata"]["namespace"] = "x"
    foreign = state("orders-4", "Converted")
    foreign["metadata"]["name"] = "users.orders-4"
    found = overview(body(), [foreign], [pod("orders-0"), other, ended, elsewhere])
    assert [place.pod for place in found.places] == ["orders-0"]


def test_pods_are_in_the_order_of_their_numbers() -> None:
    """orders-2 stands before orders-10."""
    found = overview(body(), [], [pod(f"orders-{n}") for n in (10, 2, 1)])
    assert [place.pod for place in found.places] == ["orders-1", "orders-2", "orders-10"]


def test_a_spec_that_the_controller_has_not_seen_is_told() -> None:
    """An old word of the controller is not passed off as the newest."""
    status = rollout("Complete", "every database is in v1") | {"observedGeneration": 1}
    drawn = screen.screen([overview(body(status=status), [], [])], Look(width=100), NOW)
    assert "the controller has not seen the newest spec yet" in drawn
    assert "every database is in v1" not in drawn


def test_lines_change_with_what_they_say() -> None:
    """Without a terminal a watch prints a line per change: progress counts by tens of per cent."""
    said = [
        state("orders-0", "Converting", progress={"percent": n, "phase": "building"})
        for n in (41, 49, 50)
    ]
    facts = [
        screen.facts([overview(body(), [one], [pod("orders-0")])])["shop/orders orders-0"]
        for one in said
    ]
    assert facts == ["Converting in v1 building 40%"] * 2 + ["Converting in v1 building 50%"]


def test_what_does_not_fit_on_the_terminal_is_counted() -> None:
    """A watch never scrolls."""
    text = "\n".join(f"line {n}" for n in range(100))
    fitted = screen.fitted(text, Look(width=80, height=10), "12:00:00").splitlines()
    assert len(fitted) == 10
    assert fitted[7] == "93 more lines; a taller window shows them"

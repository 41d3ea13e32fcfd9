"""A support bundle has no data in it: whatever is not known to be harmless is left out."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_operator.kubectl import redact, redact_pods
from format_operator.kubectl.redact import Redactor
from tests.kubectl.scenes import Object, body, condition, pod, rollout, state

CANARY = "canary"
OPERATOR = Path(__file__).parents[2] / "operator" / "format_operator"


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each text of a document is."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*at, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from leaves(one, (*at, index))
    elif isinstance(value, str):
        yield at


def with_canary(document: Object, at: tuple[Any, ...]) -> Object:
    changed: Any = copy.deepcopy(document)
    place = changed
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = f"{place[at[-1]]} {CANARY}"
    return dict(changed)


def reports() -> Object:
    """A FormatState whose every free text could quote a key."""
    said = state(
        "orders-0",
        "Refused",
        reason="UnconvertibleValue",
        message="table 'orders', key '/eu/1': a set",
        lastRecovery={"at": "2026-03-01T11:00:00Z", "outcome": "failed", "detail": "key '/eu/1'"},
        lastConversion={
            "at": "2026-03-01T11:00:00Z",
            "result": "refused",
            "from": "v1",
            "to": "v2",
        },
        databases={
            "total": 1,
            "failed": 1,
            "firstFailures": [{"database": "/data/a.db", "reason": "X", "message": "key '/eu/1'"}],
        },
        conditions=[condition("Ready", "False", "X", "key '/eu/1'")],
    )
    said["metadata"]["annotations"] = {"somebody/else": "secret"}
    return said


FREE_TEXTS = [
    ("status", "message"),
    ("status", "lastRecovery", "detail"),
    ("status", "databases", "firstFailures", 0, "message"),
    ("status", "conditions", 0, "message"),
    ("metadata", "annotations", "somebody/else"),
]


@pytest.mark.parametrize("at", FREE_TEXTS, ids=lambda at: ".".join(map(str, at)))
def test_free_texts_of_a_report_are_withheld(at: tuple[Any, ...]) -> None:
    """What may quote a key is told by its length; the reason beside it stays."""
    told = json.dumps(Redactor("/data/*.db", ["v1", "v2"]).formatstate(with_canary(reports(), at)))
    assert CANARY not in told
    assert "UnconvertibleValue" in told
    assert "(withheld: " in told


def test_harmless_messages_are_kept() -> None:
    """Of a reason that is made of names and numbers the message helps, and stays."""
    said = state("orders-0", "Idle", reason="NoPermit", message="waiting for a permit")
    told = Redactor("/data/orders.db", ["v1"]).formatstate(said)
    assert told["status"]["message"] == "waiting for a permit"


def declared() -> Object:
    migration = {
        "number": 1,
        "name": "add-index",
        "sql": f"INSERT INTO t VALUES ('{CANARY}')",
        "down": f"-- {CANARY}",
        "checks": [f"SELECT '{CANARY}'"],
    }
    formats = [
        {"name": "v1", "sqlitedict": {"tables": [f"{CANARY}-table"]}},
        {"name": "v2", "sqlite": {"pageSize": 8192, "migrations": [migration]}},
    ]
    status = rollout(
        "Stopped",
        f"1 failed: pod orders-0: X: key '{CANARY}'",
        conditions=[condition("Degraded", "True", "FailureBudgetSpent", f"key '{CANARY}'")],
        persistedFormats=[{"name": f"sqlitedict({CANARY})", "count": 1}],
    )
    made = body(status=status, spec__formats=formats)
    made["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(formats)
    }
    made["metadata"]["managedFields"] = [{"manager": CANARY}]
    return made


def test_sql_and_what_was_applied_are_withheld() -> None:
    """SQL, its checks and its way back, names of tables, and the annotation that has all of it again."""
    told = Redactor("/data/orders.db", ["v1", "v2"]).storageformat(declared())
    assert CANARY not in json.dumps(told)
    (migration,) = told["spec"]["formats"][1]["sqlite"]["migrations"]
    assert (migration["number"], migration["name"]) == (1, "add-index")
    assert told["spec"]["formats"][0]["sqlitedict"]["tables"] == ["table-1"]


def test_nothing_of_a_pod_that_may_be_secret() -> None:
    """Values of variables, command lines, probes, annotations, sources of volumes, what a container said at its end."""
    made = pod("orders-0")
    made["metadata"]["annotations"] = {"vault/token": CANARY, "storageformat.dev/reads": "v1,v2"}
    made["spec"]["containers"] = [
        {
            "name": "app",
            "image": "shop:1",
            "command": ["run", f"--password={CANARY}"],
            "args": [CANARY],
            "env": [
                {"name": "PASSWORD", "value": CANARY},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
            ],
            "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "a", "value": CANARY}]}},
            "lifecycle": {"preStop": {"exec": {"command": [CANARY]}}},
        }
    ]
    made["spec"]["volumes"] = [
        {"name": "s", "csi": {"driver": "d", "volumeAttributes": {"token": CANARY}}},
        {"name": "n", "secret": {"secretName": "keys", "items": [{"key": CANARY, "path": "x"}]}},
        {"name": "f", "flexVolume": {"options": {"password": CANARY}}},
    ]
    made["status"]["containerStatuses"] = [
        {
            "name": "app",
            "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": CANARY}},
        }
    ]
    told = redact_pods.pod(made)
    assert CANARY not in json.dumps(told)
    (app,) = told["spec"]["containers"]
    assert [one["name"] for one in app["env"]] == ["PASSWORD", "KEY"]
    assert app["env"][1]["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": "k"}}
    assert told["metadata"]["annotations"]["storageformat.dev/reads"] == "v1,v2"
    (sidecar, _) = told["spec"]["initContainers"]
    assert sidecar["args"] == ["sidecar", "--database", "orders=/data/orders.db"]


LOG = f"""\
2026-03-01T11:00:00.000Z info conversion needed storageformat=orders database=/data/orders.db bytes=3
2026-03-01T11:00:01.000Z warning conversion ended storageformat=orders reason=UnconvertibleValue message="key '{CANARY}'" hint="{CANARY}"
2026-03-01T11:00:02.000Z info state storageformat=orders phase=Refused reason=UnconvertibleValue message="key '{CANARY}'"
2026-03-01T11:00:03.000Z info state phase=Converted reason=InTargetFormat message="the database is in v2"
2026-03-01T11:00:04.000Z error kopf.reactor: something {CANARY}
2026-03-01T11:00:05.000Z error internal error, trying again storageformat=orders
Traceback (most recent call last):
  File "/opt/storageformat/lib/python3.13/site-packages/format_operator/sidecar/work.py", line 80, in recover
    raise ValueError({CANARY!r})
ValueError: {CANARY}
2026-03-01T11:00:06Z gate=closed database=orders reason=UnconvertibleValue message="key '{CANARY}'"
2026-03-01T11:00:07Z gate=open {CANARY}
{CANARY}
{{"ts": "2026-03-01T11:00:08Z", "level": "info", "event": "conversion ended", "rows": 3, "error": "{CANARY}", "{CANARY[:3]}x": "{CANARY}"}}
"""


def test_logs_keep_events_and_numbers_only() -> None:
    """Known events with fields that are names and numbers; frames of tracebacks; of all else how long it was."""
    told = Redactor("/data/orders.db", ["v1", "v2"]).log(LOG)
    assert CANARY not in told
    for kept in (
        "info conversion needed storageformat=orders database=/data/orders.db bytes=3",
        'warning conversion ended storageformat=orders reason=UnconvertibleValue message="(withheld',
        'reason=InTargetFormat message="the database is in v2"',
        'site-packages/format_operator/sidecar/work.py", line 80, in recover',
        "gate=closed database=orders reason=UnconvertibleValue",
        '"event": "conversion ended", "rows": 3',
    ):
        assert kept in told
    assert len(told.splitlines()) == len(LOG.splitlines())


@given(st.text(max_size=200))
def test_no_line_of_anybodys_gets_through(text: str) -> None:
    """Whatever a log holds besides our events, none of its words is in the bundle."""
    line = f"{text}{CANARY}"
    for made in (
        line,
        f"2026-03-01T11:00:00.000Z info {line}",
        f"2026-03-01T11:00:00.000Z info conversion needed a={line}",
    ):
        assert CANARY not in Redactor("/data/orders.db", []).log(made)


def test_files_that_a_glob_matches_are_numbers() -> None:
    """A file's name may be a customer's: the same number each time, in objects, logs, metrics and inspections."""
    redactor = Redactor("/data/tenants/*.db", [])
    assert redactor.path(f"/data/tenants/{CANARY}.db") == "/data/tenants/database-1"
    assert redactor.path("/data/tenants/*.db") == "/data/tenants/*.db"
    line = f"2026-03-01T11:00:00.000Z info conversion needed database=/data/tenants/{CANARY}.db"
    assert redactor.log(line).endswith("database=/data/tenants/database-1")
    scrape = f'# HELP x {CANARY}\nx{{database="/data/tenants/{CANARY}.db",other="{CANARY}"}} 1.0\n'
    assert (
        redactor.metrics(scrape) == 'x{database="/data/tenants/database-1",other="(withheld)"} 1.0'
    )
    inspected = redactor.inspection(
        {
            "path": f"/data/tenants/{CANARY}.db",
            "state": "marked",
            "tables": [{"name": CANARY, "rows": 3}],
            "note": CANARY,
            "backups": [
                {"conversionID": "i", "path": f"/data/tenants/.{CANARY}.db", "note": CANARY}
            ],
        }
    )
    assert CANARY not in json.dumps(inspected)
    assert inspected["tables"] == [{"name": "table-1", "rows": 3}]


def test_events_of_kubernetes_keep_their_text() -> None:
    """What scheduler and kubelet say of starting a pod; not what a probe's output was, nor what others wrote."""

    def text(reason: str, component: str) -> str:
        made = {"reason": reason, "message": CANARY, "source": {"component": component}}
        return str(redact_pods.event(made)["message"])

    assert text("FailedScheduling", "default-scheduler") == CANARY
    assert text("Unhealthy", "kubelet") != CANARY
    assert text("FailedScheduling", "somebody") != CANARY
    assert text("FailureBudgetSpent", "storageformat-controller") != CANARY
    assert text("PodConverted", "storageformat-controller") == CANARY


def test_every_event_that_is_kept_is_one_of_ours() -> None:
    """A line may stay because our code writes it: each event of the list stands in the sources, as it is."""
    texts = {
        node.value.split(" pid=")[0].split(" signal=")[0].split(" in=")[0].split(" error=")[0]
        for path in OPERATOR.rglob("*.py")
        if "kubectl" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(redact.EVENTS - texts) == []
    assert {"conversion needed", "conversion ended", "recovered", "state"} <= redact.EVENTS

"""Each alert, asked of promtool: that it fires, with which labels, and when it has to keep quiet."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import alertrules
from tests.docs.test_docs import ROOT, documented_metrics
from tests.support.requirements import requires

PROMTOOL: Final = requires("promtool", how="apt-get install prometheus")
NAMES: Final = [one["alert"] for one in alertrules.alerts()]
RUNBOOKS: Final = ROOT / "docs/runbooks"
DAY: Final = 86_400

POD: Final = {"namespace": "shop", "pod": "orders-0", "instance": "shop/orders-0"}
OF: Final = {**POD, "storageformat": "orders", "database": "/data/orders.db"}
CONTROLLER: Final = {
    "namespace": "system",
    "pod": "controller-a",
    "instance": "system/controller-a",
}
STANDBY: Final = {"namespace": "system", "pod": "controller-b", "instance": "system/controller-b"}
ABOUT: Final = {"storageformat_namespace": "shop", "storageformat": "orders"}

Series = tuple[str, dict[str, str], str]


@dataclass(frozen=True)
class Scene:
    """Series by minute, in promtool's notation; ``labels`` of the alert that fires ``at`` that minute."""

    series: list[Series]
    labels: dict[str, str] | None = None
    at: int = 60


def always(name: str, labels: dict[str, str], value: float) -> Series:
    return f"storageformat_{name}", labels, f"{value:.15g}x200"


def failing(kind: str, value: float) -> Series:
    return always("databases_failing", {**OF, "kind": kind}, value)


def pods(state: str, values: str, where: dict[str, str] = CONTROLLER) -> Series:
    return "storageformat_controller_pods", {**where, **ABOUT, "state": state}, values


def phase(name: str, values: str = "1x200", where: dict[str, str] = CONTROLLER) -> Series:
    return "storageformat_controller_rollout_phase", {**where, **ABOUT, "phase": name}, values


def requests(role: str, code: str, values: str, where: dict[str, str] = POD) -> Series:
    labels = {**where, "verb": "get", "resource": "storageformats", "code": code}
    return f"storageformat{role}_api_requests_total", labels, values


def condition(status: str, reason: str) -> Series:
    labels = {**CONTROLLER, **ABOUT, "condition": "Degraded", "status": status, "reason": reason}
    return always("controller_condition", labels, 1)


FIRES: Final[dict[str, list[Scene]]] = {
    "StorageFormatNeedsPerson": [Scene([failing("attention", 1)], {**OF, "kind": "attention"})],
    "StorageFormatGateClosed": [
        Scene([always("gate_open", OF, 0)], OF),
        # It began to convert and hangs in the middle.
        Scene(
            [
                always("gate_open", OF, 0),
                ("storageformat_conversion_progress_ratio", OF, "0+0.01x20 0.2x100"),
            ],
            OF,
            at=50,
        ),
    ],
    "StorageFormatConversionFailed": [Scene([failing("failed", 1)], {**OF, "kind": "failed"})],
    "StorageFormatConversionRefused": [Scene([failing("refused", 2)], {**OF, "kind": "refused"})],
    # promtool's clock begins at 0.
    "StorageFormatRecovered": [
        Scene([always("last_recovery_timestamp_seconds", OF, 300)], OF, at=30)
    ],
    "StorageFormatBackupOverdue": [
        Scene([always("backup_retain_until_timestamp_seconds", OF, 60)], OF, at=90)
    ],
    "StorageFormatBackupPinned": [
        Scene(
            [
                always("backups_kept", {**OF, "pinned": "true"}, 1),
                always("backup_created_timestamp_seconds", OF, -31 * DAY),
            ],
            {**OF, "pinned": "true"},
            at=70,
        )
    ],
    "StorageFormatVolumeNearlyFull": [
        Scene(
            [
                always("volume_free_bytes", OF, 5),
                always("volume_size_bytes", OF, 100),
                always("backup_present", OF, 1),
            ],
            OF,
        )
    ],
    "StorageFormatNoRoomToConvert": [
        Scene(
            [
                always("volume_free_bytes", OF, 100),
                always("database_size_bytes", OF, 100),
                always("restart_required", OF, 1),
            ],
            OF,
        )
    ],
    "StorageFormatWorkerRestarting": [
        Scene([("storageformat_worker_restarts_total", POD, "0x50 0+1x20")], POD, at=60)
    ],
    "StorageFormatWorkerHung": [
        Scene([("storageformat_worker_hangs_total", POD, "0x50 1x50")], POD)
    ],
    "StorageFormatScrapeErrors": [
        Scene([("storageformat_scrape_errors_total", POD, "0x50 0+1x20")], POD)
    ],
    "StorageFormatApiSilent": [
        Scene([always("api_last_answer_timestamp_seconds", OF, 1800)], OF, at=60)
    ],
    "StorageFormatApiErrors": [
        Scene(
            [requests("", "none", "0+3x200"), requests("", "200", "0+1x200")],
            {"namespace": "shop", "pod": "orders-0"},
        ),
        Scene(
            [requests("_controller", "403", "0+3x200", CONTROLLER)],
            {"namespace": "system", "pod": "controller-a"},
        ),
    ],
    "StorageFormatWatchRestarting": [
        Scene([("storageformat_watch_restarts_total", OF, "0x30 0+1x60")], OF),
        Scene(
            [("storageformat_controller_watch_restarts_total", CONTROLLER, "0x30 0+1x60")],
            CONTROLLER,
        ),
    ],
    "StorageFormatBudgetSpent": [Scene([phase("Stopped")], ABOUT)],
    "StorageFormatDegraded": [
        Scene([condition("True", "SkewBlocked")], {**ABOUT, "reason": "SkewBlocked"})
    ],
    "StorageFormatRolloutStuck": [
        Scene([phase("WaitingForPods"), pods("Converted", "1x200")], ABOUT, at=90),
        # From one of the phases to another and back, as a rollout that does not move may do.
        Scene(
            [
                phase("Converting", "1 0 1 0 1 0x200"),
                phase("Restarting", "0 1 0 1 0 1x200"),
                pods("Converted", "0x20 2x200"),
            ],
            ABOUT,
            at=100,
        ),
    ],
    "StorageFormatPodsSilent": [Scene([pods("Unreported", "2x200")], ABOUT)],
    "StorageFormatPodsUnserved": [Scene([pods("Unserved", "1x200")], ABOUT)],
    "StorageFormatNoLeader": [
        Scene(
            [always("controller_leading", CONTROLLER, 0), always("controller_leading", STANDBY, 0)],
            {"namespace": "system"},
        ),
        # Nobody is scraped at all.
        Scene([always("gate_open", OF, 1)], {}),
    ],
    # promtool's clock begins at 0: a week is left, or there is none.
    "StorageFormatWebhookCertificate": [
        Scene([always("webhook_certificate_expiry_timestamp_seconds", POD, 7 * DAY)], POD, at=120),
        Scene([always("webhook_certificate_expiry_timestamp_seconds", POD, 0)], POD, at=120),
    ],
    "StorageFormatControllerBlind": [
        Scene(
            [
                always(
                    "controller_last_list_timestamp_seconds",
                    {**CONTROLLER, "resource": "pods"},
                    60,
                )
            ],
            {"namespace": "system", "pod": "controller-a", "resource": "pods"},
        )
    ],
    "StorageFormatReconcileErrors": [
        Scene(
            [("storageformat_controller_reconcile_errors_total", CONTROLLER, "0x50 0+1x20")],
            CONTROLLER,
        )
    ],
}

QUIET: Final[dict[str, list[Scene]]] = {
    "StorageFormatNeedsPerson": [Scene([failing("attention", 0), failing("failed", 3)])],
    "StorageFormatGateClosed": [
        Scene([always("gate_open", OF, 1)]),
        # A start that takes its time, and a large database that is converted for hours.
        Scene([("storageformat_gate_open", OF, "0x10 1x100")], at=30),
        Scene(
            [
                always("gate_open", OF, 0),
                ("storageformat_conversion_progress_ratio", OF, "0+0.001x200"),
            ],
            at=180,
        ),
    ],
    "StorageFormatConversionFailed": [
        # Aborted, in use, locked: it tries again, and nobody need see to that.
        Scene([failing("failed", 0), failing("try-again", 1), failing("refused", 1)]),
        Scene([("storageformat_databases_failing", {**OF, "kind": "failed"}, "0x20 1x3 0x100")]),
    ],
    "StorageFormatConversionRefused": [Scene([failing("refused", 0), failing("failed", 1)])],
    "StorageFormatRecovered": [Scene([always("last_recovery_timestamp_seconds", OF, 300)], at=70)],
    "StorageFormatBackupOverdue": [
        Scene([always("backup_retain_until_timestamp_seconds", OF, 7200)], at=90)
    ],
    "StorageFormatBackupPinned": [
        Scene(
            [
                always("backups_kept", {**OF, "pinned": "true"}, 1),
                always("backup_created_timestamp_seconds", OF, -29 * DAY),
            ],
            at=70,
        ),
        Scene(
            [
                always("backups_kept", {**OF, "pinned": "true"}, 0),
                always("backups_kept", {**OF, "pinned": "false"}, 1),
                always("backup_created_timestamp_seconds", OF, -31 * DAY),
            ],
            at=70,
        ),
    ],
    "StorageFormatVolumeNearlyFull": [
        Scene(
            [
                always("volume_free_bytes", OF, free),
                always("volume_size_bytes", OF, 100),
                always("backup_present", OF, present),
            ]
        )
        for free, present in ((5, 0), (11, 1))
    ],
    "StorageFormatNoRoomToConvert": [
        Scene(
            [
                always("volume_free_bytes", OF, free),
                always("database_size_bytes", OF, 100),
                always("restart_required", OF, required),
            ]
        )
        for free, required in ((100, 0), (200, 1))
    ],
    # A rollout replaces each pod once; a node that died ends a worker here and there.
    "StorageFormatWorkerRestarting": [
        Scene([("storageformat_worker_restarts_total", POD, "0x50 1x100")])
    ],
    "StorageFormatWorkerHung": [Scene([("storageformat_worker_hangs_total", POD, "1x200")])],
    "StorageFormatScrapeErrors": [Scene([("storageformat_scrape_errors_total", POD, "7x200")])],
    "StorageFormatApiSilent": [
        Scene([("storageformat_api_last_answer_timestamp_seconds", OF, "0+60x200")])
    ],
    "StorageFormatApiErrors": [
        Scene([requests("", "404", "0+3x200"), requests("", "200", "0+1x200")]),
        # A PodDisruptionBudget that says "not now" is no error of the controller's.
        Scene([requests("_controller", "429", "0+3x200", CONTROLLER)]),
        Scene([requests("", "none", "0+1x30 31x100"), requests("", "200", "0+1x200")]),
    ],
    "StorageFormatWatchRestarting": [
        Scene([("storageformat_watch_restarts_total", OF, "0x30 1x10 2x100")])
    ],
    "StorageFormatBudgetSpent": [Scene([phase("Stopped", "0x200"), phase("Complete")])],
    "StorageFormatDegraded": [
        Scene([condition("False", "AsExpected")]),
        Scene([condition("True", "FailureBudgetSpent")]),
    ],
    "StorageFormatRolloutStuck": [
        # Slow, but it moves; done; and standing still because somebody wants it to.
        Scene(
            [phase("Converting"), pods("Converted", "0x25 1x25 2x25 3x25 4x25 5x25 6x25")], at=150
        ),
        Scene([phase("Complete"), pods("Converted", "3x200")], at=150),
        Scene([phase("Suspended"), phase("Soaking"), pods("Converted", "1x200")], at=150),
    ],
    "StorageFormatPodsSilent": [
        Scene([pods("Unreported", "0x200"), pods("Converted", "2x200")]),
        Scene([pods("Unreported", "0x20 1x10 0x100")]),
    ],
    "StorageFormatPodsUnserved": [Scene([pods("Unserved", "0x200")])],
    "StorageFormatNoLeader": [
        Scene(
            [always("controller_leading", CONTROLLER, 1), always("controller_leading", STANDBY, 0)]
        ),
        # From one to the other.
        Scene(
            [
                ("storageformat_controller_leading", CONTROLLER, "1x20 0x100"),
                ("storageformat_controller_leading", STANDBY, "0x22 1x100"),
            ],
            at=24,
        ),
    ],
    "StorageFormatWebhookCertificate": [
        Scene([always("webhook_certificate_expiry_timestamp_seconds", POD, 30 * DAY)], at=120)
    ],
    "StorageFormatControllerBlind": [
        Scene(
            [
                (
                    "storageformat_controller_last_list_timestamp_seconds",
                    {**CONTROLLER, "resource": "pods"},
                    "0+60x200",
                )
            ]
        )
    ],
    "StorageFormatReconcileErrors": [
        Scene([("storageformat_controller_reconcile_errors_total", CONTROLLER, "0x50 1x50")])
    ],
}


def ask(
    tmp_path: Path, name: str, scenes: list[Scene], **more: Any
) -> subprocess.CompletedProcess[str]:
    """Have promtool play the scenes, and say whether what fires in each is what should."""
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(alertrules.groups()))
    tests = [{**_test(name, scene), **more} for scene in scenes]
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document))
    return subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )


def _test(name: str, scene: Scene) -> dict[str, Any]:
    firing = []
    if scene.labels is not None:
        severity = next(one["severity"] for one in alertrules.alerts() if one["alert"] == name)
        labels = {"alertname": name, "alertstate": "firing", "severity": severity, **scene.labels}
        firing.append({"labels": f"ALERTS{_written(labels)}", "value": 1})
    asked = {
        "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
        "eval_time": f"{scene.at}m",
        "exp_samples": firing,
    }
    series = [
        {"series": metric + _written(labels), "values": values}
        for metric, labels, values in scene.series
    ]
    return {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}


def _written(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


@PROMTOOL
def test_the_rules_are_sound(tmp_path: Path) -> None:
    """promtool has nothing to say about expressions, templates and durations."""
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(alertrules.groups()))
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(NAMES)} rules found" in done.stdout


@PROMTOOL
@pytest.mark.parametrize("name", NAMES)
def test_it_fires_and_keeps_quiet(name: str, tmp_path: Path) -> None:
    """It fires in each scene that it is for, with the labels that say whom it is about, and in none that only looks like it."""
    assert all(scene.labels is not None for scene in FIRES[name])
    assert all(scene.labels is None for scene in QUIET[name])
    done = ask(tmp_path, name, [*FIRES[name], *QUIET[name]])
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
def test_promtool_would_say_so(tmp_path: Path) -> None:
    """A scene that fires, expected to be quiet, and one the other way round: both are failures."""
    name = "StorageFormatNeedsPerson"
    for scene in (replace(FIRES[name][0], labels=None), replace(QUIET[name][0], labels=OF)):
        assert ask(tmp_path, name, [scene]).returncode == 1


@PROMTOOL
def test_a_closed_gate_says_why(tmp_path: Path) -> None:
    """The description has phase and reason as they are when it is read; the alert's labels have not, they may change."""
    state = always("state_info", {**OF, "phase": "Refused", "reason": "WrongUser"}, 1)
    scene = Scene([always("gate_open", OF, 0), state], OF)
    annotations = {
        "summary": "The app of orders-0 is held back by the gate of orders",
        "description": "shop/orders-0 does not start and nothing moves. It says Refused, WrongUser.",
    }
    expected = {"exp_labels": {**OF, "severity": "critical"}, "exp_annotations": annotations}
    asked = {
        "eval_time": "60m",
        "alertname": "StorageFormatGateClosed",
        "exp_alerts": [expected],
    }
    done = ask(tmp_path, "StorageFormatGateClosed", [scene], alert_rule_test=[asked])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_an_alert_is_one_of_ours() -> None:
    """An alert on a metric that nobody exposes would never fire."""
    parts = ("Of the sidecar", "Of the controller", "Of the webhook")
    known = {name for part in parts for name in documented_metrics(part)}
    for one in alertrules.alerts():
        used = set(re.findall(r"storageformat_\w+", one["expr"])) - {"storageformat_namespace"}
        assert used, one["alert"]
        assert used <= known, one["alert"]


def test_every_alert_has_its_runbook() -> None:
    """And every runbook its alert, with what it means, what it does, how to find out and what to do."""
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == sorted(NAMES)
    for name in NAMES:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
        diagnosis = text[text.index("## Diagnosis") : text.index("## Mitigation")]
        assert re.search(r"^\$ \w+", diagnosis, re.MULTILINE), name


def test_the_page_lists_every_alert() -> None:
    """docs/monitoring.md has name, severity and duration of each, in the source's order."""
    text = (ROOT / "docs/monitoring.md").read_text()
    told = re.findall(
        r"^\| \[(StorageFormat\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| (\w+) \|", text, re.MULTILINE
    )
    assert told == [
        (one["alert"], one["alert"], one["severity"], one["for"]) for one in alertrules.alerts()
    ]

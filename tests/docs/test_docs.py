"""What the documentation says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator.admission.metrics import WebhookMetrics
from format_operator.admission.review import Result
from format_operator.api.formats import ENGINES, SqlitedictParameters
from format_operator.api.injection import INJECT, OPTIONS
from format_operator.api.models import Phase as StatePhase
from format_operator.api.models import StorageFormat
from format_operator.api.names import READS_ANNOTATION
from format_operator.api.schema import props
from format_operator.api.sqlite import Migration, SqliteParameters
from format_operator.controller import report
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.standing import Standing
from format_operator.gate_protocol import DEFAULT_SOCKET
from format_operator.kubectl import app as plugin
from format_operator.kubectl import problems
from format_operator.metrics import SidecarMetrics
from format_operator.series import DatabaseSeries, FormatInfo
from format_operator.settings import sidecar_settings
from format_store import Phase, errors
from format_store.layout import Layout
from tests.support.objects import storageformat

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document names a file that exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_file_index_is_true() -> None:
    """Every file and folder that the architecture page names is where it says; a bare name is a module's of ours."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    places = re.findall(r"`((?:store|operator|devtools|charts|deploy|tests)/[\w./-]+)`", text)
    assert len([one for one in places if one.endswith(".py")]) >= 12
    for place in places:
        assert (ROOT / place).exists(), place
    modules = {
        one.name
        for part in ("operator", "store", "devtools")
        for one in (ROOT / part).rglob("*.py")
    }
    for name in re.findall(r"`(?:[\w]+/)?(\w+\.py)`", text):
        assert name in modules, name


def test_the_readmes_storageformat_is_valid() -> None:
    """The YAML of the README is a StorageFormat as the API takes it."""
    (text,) = blocks(README, "yaml")
    parsed = StorageFormat.from_object(yaml.safe_load(text), strict=True)
    assert parsed.spec.target_format.name == "v2"


def test_the_fields_of_a_format_are_documented() -> None:
    """The page's example is a StorageFormat's, and its tables have exactly the fields of a format's parts."""
    text = (ROOT / "docs" / "format.md").read_text()
    (example,) = blocks(text, "yaml")
    body = storageformat(
        **{f"spec__{key}": value for key, value in yaml.safe_load(example)["spec"].items()}
    )
    parsed = StorageFormat.from_object(body, strict=True)
    assert set(parsed.spec.target_format.parts) == set(ENGINES)
    for heading, model in (
        ("field of `sqlitedict`", SqlitedictParameters),
        ("field of `sqlite`", SqliteParameters),
        ("field of a migration", Migration),
    ):
        table = text[text.index(f"| {heading} |") :].split("\n\n")[0]
        told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert sorted(told) == sorted(info.name for _, info in props(model))


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    """The example for an app with no cluster runs as printed, and prints the record it wrote."""
    (text,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "/eu/berlin/1 {'amount': 12}\n"


def test_every_command_of_the_readme_exists() -> None:
    """`storageformat --help` knows every command that a document shows, and a document shows every command."""
    done = subprocess.run(
        [sys.executable, "-m", "format_operator", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    known = set(re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE))
    shown = set(re.findall(r"^\$ storageformat (\w+)", README, re.MULTILINE))
    assert shown == known


def test_the_exit_codes_are_those_of_the_errors() -> None:
    """The README's table has the exit codes that errors can have, and 0."""
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}

    def codes(kind: type[errors.StoreError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(below) for below in kind.__subclasses__()))

    assert told == codes(errors.StoreError) | {0}


def test_every_error_is_in_the_tree() -> None:
    """The tree in the docstring of `errors` names every error class of the module."""
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StoreError)
    }
    assert kinds == {name for name in kinds if re.search(rf"\b{name}\b", errors.__doc__ or "")}


def test_the_state_directory_is_as_documented() -> None:
    """The format page names the paths that the store uses."""
    text = (ROOT / "docs" / "format.md").read_text()
    layout = Layout.of("/data/orders.db")
    assert f"`{layout.state.name}/lock`" in text
    work = layout.work_directory("<id>")
    for path in (work.staging, work.preimage, work.manifest, layout.history):
        assert str(path.relative_to(layout.state)) in text


def exposed_metrics(registry: Any) -> dict[str, str]:
    """Our own metric families of a registry, by the name that a scrape shows."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in registry.collect()
        if family.name.startswith("storageformat_")
    }


def documented_metrics(part: str) -> dict[str, str]:
    """What docs/metrics.md lists below that heading."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [one for one in section if one.startswith(part)]
    rows = r"^\| `(storageformat_\w+)(?:\{[^}]*\})?` \| (\w+) \|"
    return dict(re.findall(rows, found, re.MULTILINE))


def test_every_metric_is_documented() -> None:
    """docs/metrics.md lists exactly the metrics that a sidecar exposes, with their types."""
    metrics = SidecarMetrics(version="0", phases=tuple(str(phase) for phase in Phase))
    metrics.add(
        DatabaseSeries(
            "orders", "/data/orders.db", formats={FormatInfo("v1", "e", "k", "v", "c"): 1}
        )
    )
    assert documented_metrics("Of the sidecar") == exposed_metrics(metrics.registry)


def test_every_metric_of_the_controller_is_documented() -> None:
    """The same for the controller."""
    metrics = ControllerMetrics(version="0")
    metrics.show(("shop", "orders"), {}, RolloutPhase.COMPLETE)
    assert documented_metrics("Of the controller") == exposed_metrics(metrics.registry)


def test_every_metric_of_the_webhook_is_documented() -> None:
    """The same for the webhook, with all results that a request can have."""
    assert documented_metrics("Of the webhook") == exposed_metrics(
        WebhookMetrics(version="0").registry
    )
    text = (ROOT / "docs" / "metrics.md").read_text()
    row = next(one for one in text.splitlines() if "storageformat_webhook_requests_total" in one)
    assert set(re.findall(r"`([a-z]+)`", row)) == {str(result) for result in Result}


def test_every_annotation_is_documented() -> None:
    """docs/injection.md explains exactly the annotations that a person may write."""
    text = (ROOT / "docs" / "injection.md").read_text()
    assert re.findall(r"^\| `(storageformat\.dev/[\w-]+)` \|", text, re.MULTILINE) == [
        INJECT,
        READS_ANNOTATION,
        *(one for one in OPTIONS if one not in {INJECT, READS_ANNOTATION}),
    ]


def test_every_state_of_the_controllers_metric_is_documented() -> None:
    """The values of the label `state` are told."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    for standing in Standing:
        assert f"`{standing}`" in text


def test_every_rollout_phase_is_documented() -> None:
    """docs/rollout.md explains exactly the phases that a rollout can be in."""
    text = (ROOT / "docs" / "rollout.md").read_text()
    table = text[text.index("| phase | means |") : text.index("Conditions, whose reasons")]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert told == {str(phase) for phase in RolloutPhase}


def test_every_reason_is_documented() -> None:
    """docs/rollout.md has the reasons that the module which makes the conditions lists, and no other."""
    text = (ROOT / "docs" / "rollout.md").read_text()
    table = text[text.index("| condition | `True`") : text.index("`InvalidStorageFormat` stands")]
    told = set(re.findall(r"`([A-Z]\w+)`", table))
    listed = report.__doc__ or ""
    known = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z]\w+)?\b", listed[listed.index("    Ready  ") :]))
    assert told == known


def test_every_target_of_the_makefile_that_is_named_exists() -> None:
    """`make X` in a document is a target."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make (\w+)", document.read_text()):
            assert target in targets, (document.name, target)


def test_every_phase_is_documented() -> None:
    """docs/sidecar.md explains exactly the phases that a FormatState can have."""
    text = (ROOT / "docs" / "sidecar.md").read_text()
    table = text[text.index("| phase | means |") : text.index("A status is a report")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {
        str(phase) for phase in StatePhase
    }


def test_the_sidecars_snippet_is_accepted_by_its_parser() -> None:
    """The arguments and environment of the snippet are what sidecar and gate take."""
    (text,) = blocks((ROOT / "docs" / "sidecar.md").read_text(), "yaml")
    sidecar, gate = yaml.safe_load(text)["initContainers"]
    environ = {entry["name"]: "x" for entry in sidecar["env"]}
    settings = sidecar_settings(sidecar["args"][1:], environ)
    assert settings.metrics_port == sidecar["ports"][0]["containerPort"]
    assert gate["args"] == ["gate"]
    mounted = {Path(mount["mountPath"]) for mount in gate["volumeMounts"]}
    assert Path(DEFAULT_SOCKET).parent in mounted


def test_every_option_in_the_sidecars_page_exists() -> None:
    """An option that the page names is one of the sidecar's."""
    done = subprocess.run(
        [sys.executable, "-m", "format_operator", "sidecar", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    text = (ROOT / "docs" / "sidecar.md").read_text()
    for option in set(re.findall(r"`(--[a-z-]+)`", text)):
        assert option in done.stdout


def test_every_command_of_the_plugin_is_documented() -> None:
    """docs/kubectl.md has a row for each command, with options that it takes, and names no other."""
    text = (ROOT / "docs" / "kubectl.md").read_text()
    table = text[text.index("| command | what it does |") : text.index("A plan is made by")]
    rows = re.findall(r"^\| (`[^|]+) \| (.*) \|$", table, re.MULTILINE)
    told = {word for names, _ in rows for word in re.findall(r"`([a-z-]+) ", names)}
    assert told == {name for name, _, _ in plugin.COMMANDS}
    known = {name: plugin_options(name) for name in told}
    for names, what in rows:
        for name in re.findall(r"`([a-z-]+) ", names):
            for option in re.findall(r"`(--?[a-z-]+)", f"{names} {what}"):
                assert option in known[name], (name, option)


def plugin_options(name: str) -> set[str]:
    """Every option in the help of one of the plugin's commands."""
    done = subprocess.run(
        [sys.executable, "-m", "format_operator.kubectl.app", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", done.stdout))


def test_the_exit_codes_of_the_plugin_are_documented() -> None:
    """The page's table has the codes that the plugin can end with."""
    text = (ROOT / "docs" / "kubectl.md").read_text()
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    kinds = (problems.FAILED, problems.USAGE, problems.REFUSED, problems.NEEDS_A_PERSON)
    assert told == {0, *kinds, problems.TRY_AGAIN}

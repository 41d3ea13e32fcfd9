"""The library chart gives what `storageformat render sidecar` gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator.snippet import SnippetOptions, snippet
from tests.chart.helm import SIDECAR, Helm

BASE: dict[str, Any] = {"image": "img:1", "databases": {"orders": "/data/orders.db"}}
OPTIONS: dict[str, dict[str, Any]] = {
    "least": {},
    "uid": {"run_as_user": 999},
    "a large uid": {"run_as_user": 1000700000},
    "root": {"run_as_user": 0},
    "root with a group": {"run_as_user": 0, "run_as_group": 5},
    "a group alone": {"run_as_group": 5},
    "group 0": {"run_as_user": 999, "run_as_group": 0},
    "several": {
        "databases": {"zebra": "/data/z.db", "ant": "/data/tenants/*.db"},
        "image": "localhost:5000/a/b@sha256:" + "a" * 64,
        "image_pull_policy": "Never",
    },
    "mounted": {"volume": "store", "mount": "/data", "sub_path": "a/b"},
    "a deep mount": {"databases": {"a": "/srv/app/state/a.db"}},
    "port": {"metrics_port": 9000},
    "limits": {"limits": {"cpu": "1", "memory": "1Gi"}},
    "no requests": {"requests": {}},
    "requests": {"requests": {"memory": "64Mi"}},
    "migrations": {"migrations": "orders-v3.2"},
    "migrations elsewhere": {"migrations": "a", "migrations_path": "/etc/migrations"},
    "json": {"log_format": "json", "sidecar_args": ("--permit-wait=60",)},
    "variables": {"variables": {"A_B": "http://x:4318/$(C) '", "Z": "1"}},
    "arguments": {"sidecar_args": ("--permit-wait=60", "--log-level", "debug")},
    "odd": {
        "databases": {"a": '/data/$(HOME) "it\'s" {{x}}.db'},
        "sidecar_args": ("--pickle-allow=datetime.date",),
    },
}

TEMPLATE = """\
initContainers:
{{ include "storageformat.sidecar.initContainers" .Values.sidecar }}
volumes:
{{ include "storageformat.sidecar.volumes" .Values.sidecar }}
"""


@pytest.fixture(scope="module")
def consumer(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app's chart that depends on the library, as people write it."""
    chart = tmp_path_factory.mktemp("consumer") / "app"
    (chart / "templates").mkdir(parents=True)
    dependency = {"name": SIDECAR.name, "version": ">=0.0.0", "repository": f"file://{SIDECAR}"}
    metadata = {"apiVersion": "v2", "name": "app", "version": "1.0.0", "dependencies": [dependency]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    (chart / "templates/snippet.yaml").write_text(TEMPLATE)
    helm.run("dependency", "update", str(chart))
    return chart


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def rendered(helm: Helm, consumer: Path, sidecar: dict[str, Any], *, check: bool = True) -> Any:
    done = helm.run(
        *("template", "x", str(consumer), "--values", "-"),
        stdin=json.dumps({"sidecar": sidecar}),
        check=check,
    )
    return yaml.safe_load(done.stdout) if check else done.stderr


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_both_give_the_same(helm: Helm, consumer: Path, changes: dict[str, Any]) -> None:
    """For the same options, the same objects in the same order."""
    options = BASE | changes
    values = {camel(key): value for key, value in options.items()}
    values["databases"] = [
        {"name": name, "path": path} for name, path in options["databases"].items()
    ]
    assert rendered(helm, consumer, values) == snippet(SnippetOptions(**options))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"databases": []}, "databases: write at least one"),
        ({"databases": [{"name": "a"}]}, "write {name: STORAGEFORMAT, path: /absolute/path.db}"),
        ({"image": ""}, "image: write REPOSITORY:TAG"),
        ({"mount": "/dat"}, "mount: /data/a.db is not below /dat"),
        ({"migrations": "a", "migrationsPath": "m"}, "migrationsPath: m is not an absolute path"),
        ({"migrations": "a", "migrationsPath": "/m/"}, "migrationsPath: /m/ is not an absolute"),
        ({"migrations": "a", "migrationsPath": "/data/m"}, "/data/m and /data overlap"),
        ({"migrations": "a", "migrationsPath": "/run"}, "/run and /run/storageformat overlap"),
        ({"migrationsPath": "/m"}, "migrationsPath: goes with migrations"),
        ({"logFormat": "xml"}, "logFormat: xml is none; write text or json"),
        ({"runAsUsr": 1}, 'there is no option "runAsUsr"; there is databases, image'),
    ],
)
def test_nonsense_is_refused(
    helm: Helm, consumer: Path, changes: dict[str, Any], says: str
) -> None:
    """What makes no sense ends the rendering with a message that names the option."""
    values = {"image": "i:1", "databases": [{"name": "a", "path": "/data/a.db"}]} | changes
    assert says in rendered(helm, consumer, values, check=False)


def test_its_readme_is_right(helm: Helm, tmp_path: Path) -> None:
    """The README's template renders as printed, and its table has the options that there are."""
    text = (SIDECAR / "README.md").read_text()
    dependencies, template = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    chart = tmp_path / "app"
    (chart / "templates").mkdir(parents=True)
    (chart / "templates/pod.yaml").write_text(template)
    metadata = {"apiVersion": "v2", "name": "app", "version": "1.0.0"}
    (chart / "Chart.yaml").write_text(
        yaml.safe_dump(metadata)
        + dependencies.replace("file://../storageformat-sidecar", f"file://{SIDECAR}")
    )
    helm.run("dependency", "update", str(chart))
    found = yaml.safe_load(helm.run("template", "x", str(chart)).stdout)
    expected = SnippetOptions(
        "storageformat-operator:0.1.0", {"orders": "/data/orders.db"}, run_as_user=10001
    )
    assert found == snippet(expected)
    source = (SIDECAR / "templates/_sidecar.tpl").read_text()
    known = re.search(r"\$known := list (.*?) }}", source)
    assert known is not None
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert told == known[1].replace('"', "").split()

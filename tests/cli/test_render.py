"""`storageformat render sidecar`: the snippet for a pod template."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator import render
from format_operator.gate_protocol import DEFAULT_SOCKET
from format_operator.settings import DEFAULT_TOKEN_DIRECTORY, sidecar_settings
from format_operator.snippet import InvalidSnippet, SnippetOptions, snippet

ORDERS = ("--database", "orders=/data/orders.db")


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert render.main(["sidecar", *ORDERS, *arguments]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        render.main(["sidecar", *arguments])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_it_is_what_the_module_makes(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the snippet of `format_operator.snippet`, as YAML and as JSON."""
    options = SnippetOptions(
        image="img:1",
        databases={"orders": "/data/orders.db", "tenants": "/data/tenants/*.db"},
        image_pull_policy="Never",
        run_as_user=999,
        volume="store",
        sub_path="a/b",
        metrics_port=9000,
        requests={"cpu": "5m", "memory": "64Mi"},
        limits={"memory": "1Gi"},
        log_format="json",
        variables={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a=b:4318", "X": ""},
        sidecar_args=("--permit-wait=60", "--openers-unchecked"),
        migrations="orders-v3",
        migrations_path="/etc/migrations",
    )
    arguments = (
        *("--database", "tenants=/data/tenants/*.db", "--image", "img:1"),
        *("--image-pull-policy", "Never", "--run-as-user", "999", "--volume", "store"),
        *("--sub-path", "a/b", "--metrics-port", "9000", "--cpu-request", "5m"),
        *("--memory-request", "64Mi", "--memory-limit", "1Gi"),
        *("--sidecar-arg=--permit-wait=60", "--sidecar-arg=--openers-unchecked"),
        *("--log-format", "json", "--env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://a=b:4318"),
        *("--env", "X="),
        *("--migrations", "orders-v3:/etc/migrations"),
    )
    assert rendered(capsys, *arguments) == snippet(options)
    assert rendered(capsys, *arguments, "-o", "json") == snippet(options)


def test_the_sidecar_takes_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments, environment and mounts are what sidecar and gate expect."""
    document = rendered(capsys, "--metrics-port", "9000")
    sidecar, gate = document["initContainers"]
    settings = sidecar_settings(sidecar["args"][1:], {one["name"]: "x" for one in sidecar["env"]})
    assert [(one.name, one.path) for one in settings.databases] == [("orders", "/data/orders.db")]
    assert settings.pod_name == settings.pod_uid == settings.node_name == settings.namespace == "x"
    assert settings.reads == frozenset({"x"})
    assert settings.metrics_port == sidecar["ports"][0]["containerPort"] == 9000
    assert sidecar["ports"][0]["name"] == "sf-metrics"
    mounts = {one["name"]: one["mountPath"] for one in sidecar["volumeMounts"]}
    assert mounts == {
        "data": "/data",
        "storageformat-run": str(Path(DEFAULT_SOCKET).parent),
        "storageformat-token": DEFAULT_TOKEN_DIRECTORY,
    }
    assert gate["args"] == ["gate"]
    assert [one["name"] for one in gate["volumeMounts"]] == ["storageformat-run"]
    assert sidecar["restartPolicy"] == "Always"
    assert "restartPolicy" not in gate


def test_migrations_are_mounted_read_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A ConfigMap of migrations is in the sidecar, at /migrations, and not in the gate; the text says how to keep it."""
    render.main(["sidecar", *ORDERS, "--migrations", "orders-v3.2"])
    text = capsys.readouterr().out
    assert "# The migrations of a format with migrationsFrom. Make this an immutable" in text
    document = yaml.safe_load(text)
    sidecar, gate = document["initContainers"]
    assert sidecar["volumeMounts"][-1] == {
        "name": "storageformat-migrations",
        "mountPath": "/migrations",
        "readOnly": True,
    }
    assert [one["name"] for one in gate["volumeMounts"]] == ["storageformat-run"]
    assert document["volumes"][-1] == {
        "name": "storageformat-migrations",
        "configMap": {"name": "orders-v3.2"},
    }
    assert "storageformat-migrations" not in json.dumps(rendered(capsys))


def test_there_is_no_probe_and_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A probe on the sidecar would take the app down with it; the printed text tells so."""
    render.main(["sidecar", *ORDERS])
    text = capsys.readouterr().out
    assert "It has no probe, on purpose" in text
    document = yaml.safe_load(text)
    keys = {key for container in document["initContainers"] for key in container}
    assert not [key for key in keys if key.endswith("Probe") or key == "lifecycle"]


def test_restricted_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Both containers pass the `restricted` standard, with and without a uid."""
    for arguments in ((), ("--run-as-user", "999")):
        for container in rendered(capsys, *arguments)["initContainers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsNonRoot"] is True
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context.get("runAsUser") == context.get("runAsGroup")
            assert context.get("runAsUser") == (999 if arguments else None)


def test_root_gets_the_capabilities_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """uid 0 is given what an owner may do, the gate is not, and the text says that it is not `restricted`."""
    render.main(["sidecar", *ORDERS, "--run-as-user", "0", "--run-as-group", "0"])
    text = capsys.readouterr().out
    assert "NOT allowed by the pod security standard `restricted`" in text
    sidecar, gate = yaml.safe_load(text)["initContainers"]
    wanted = ["LEASE", "DAC_OVERRIDE", "FOWNER", "CHOWN"]
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": wanted}
    assert gate["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {one["securityContext"]["runAsNonRoot"] for one in (sidecar, gate)} == {False}


def test_a_patch_names_the_workload(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o patch` is a strategic merge patch with the annotations where they belong."""
    document = rendered(
        capsys, "-o", "patch", "--for", "StatefulSet/orders", "--prometheus-annotations"
    )
    assert document["apiVersion"] == "apps/v1"
    assert (document["kind"], document["metadata"]) == ("StatefulSet", {"name": "orders"})
    template = document["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9865"
    assert set(template["spec"]) == {"initContainers", "volumes"}


def test_annotations_make_it_a_pod_template(capsys: pytest.CaptureFixture[str]) -> None:
    """With the annotations, what is printed is a pod template; without, parts of its spec."""
    document = rendered(capsys, "--prometheus-annotations", "-o", "json")
    assert set(document) == {"metadata", "spec"}
    assert document["metadata"]["annotations"]["prometheus.io/scrape"] == "true"


def test_a_path_that_looks_like_a_variable_is_itself() -> None:
    """Kubernetes expands $(NAME) in arguments: a path with it is escaped."""
    options = SnippetOptions(image="i:1", databases={"a": "/data/$(HOME).db"})
    assert "a=/data/$$(HOME).db" in snippet(options)["initContainers"][0]["args"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--database"),
        (("--database", "orders"), "write NAME=PATH"),
        (("--database", "orders=data.db"), "the path is absolute"),
        (("--database", "a.b=/data/x.db"), "without dots"),
        ((*ORDERS, *ORDERS), "one StorageFormat, one path"),
        (("--database", "orders=/orders.db"), "--mount: '/' is not"),
        ((*ORDERS, "--database", "b=/x/b.db"), "--mount: b=/x/b.db is not below /data"),
        ((*ORDERS, "--mount", "/data/"), "--mount: '/data/' is not"),
        ((*ORDERS, "--mount", "/dat"), "--mount: orders=/data/orders.db is not below /dat"),
        (("--database", "o=/run/storageformat/o.db"), "--mount: /run/storageformat and"),
        ((*ORDERS, "--image", ""), "--image: '' is no image"),
        ((*ORDERS, "--image-pull-policy", "Sometimes"), "--image-pull-policy"),
        ((*ORDERS, "--run-as-user", "-1"), "--run-as-user: -1 is no id"),
        ((*ORDERS, "--run-as-user", "root"), "--run-as-user"),
        ((*ORDERS, "--volume", "My_Data"), "--volume: 'My_Data' is no volume"),
        ((*ORDERS, "--volume", "storageformat-run"), "--volume: this one is the snippet's own"),
        ((*ORDERS, "--volume", "storageformat-migrations"), "--volume: this one is the snippet's"),
        ((*ORDERS, "--sub-path", "../x"), "--sub-path"),
        ((*ORDERS, "--migrations", ""), "--migrations: '' is no ConfigMap; write NAME or NAME:/"),
        ((*ORDERS, "--migrations", "Orders"), "--migrations: 'Orders' is no ConfigMap"),
        ((*ORDERS, "--migrations", "a:"), "--migrations: '' is not an absolute path"),
        ((*ORDERS, "--migrations", "a:b"), "--migrations: 'b' is not an absolute path"),
        ((*ORDERS, "--migrations", "a:/b:c"), "--migrations: Kubernetes mounts nothing"),
        ((*ORDERS, "--migrations", "a:/data/m"), "/data/m and the app's volume at /data overlap"),
        ((*ORDERS, "--migrations", "a:/run"), "/run and the sidecar's own /run/storageformat"),
        ((*ORDERS, "--metrics-port", "0"), "--metrics-port: 0 is no port"),
        ((*ORDERS, "--memory-limit", "much"), "memory: 'much' is no quantity"),
        ((*ORDERS, "--sidecar-arg=--nonsense"), "unrecognized arguments: --nonsense"),
        ((*ORDERS, "--sidecar-arg=--metrics-port=1"), "is named with --metrics-port"),
        ((*ORDERS, "--sidecar-arg=--database=b=/data/b.db"), "is named with --database"),
        ((*ORDERS, "--sidecar-arg=--socket=/tmp/x"), "where the snippet's volumes are mounted"),
        ((*ORDERS, "--sidecar-arg=--log-format=json"), "is named with --log-format"),
        ((*ORDERS, "--log-format", "xml"), "--log-format"),
        ((*ORDERS, "--env", "A"), "--env A: write NAME=VALUE"),
        ((*ORDERS, "--env", "A B=1"), "--env: 'A B' is the sidecar's own, or no name"),
        ((*ORDERS, "--env", "POD_NAME=x"), "--env: 'POD_NAME' is the sidecar's own"),
        ((*ORDERS, "-o", "patch"), "--for statefulset/orders"),
        ((*ORDERS, "-o", "patch", "--for", "job/x"), "KIND is one of statefulset"),
        ((*ORDERS, "--for", "statefulset/orders"), "goes with -o patch"),
    ],
)
def test_nonsense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    """Exit code 2, nothing printed, and an error that names the option."""
    assert says in refused(capsys, *arguments)


def test_the_module_refuses_too() -> None:
    """Who makes the snippet in Python is told the same, with the name of the field."""
    with pytest.raises(InvalidSnippet, match="NAME=PATH") as error:
        SnippetOptions(image="i:1", databases={})
    assert error.value.option == "database"


def test_it_is_a_command_of_storageformat() -> None:
    """`storageformat render sidecar` runs, and imports neither kopf nor the store."""
    script = (
        "import sys; from format_operator.__main__ import main;"
        "code = main(['render', 'sidecar', '--database', 'o=/data/o.db', '-o', 'json']);"
        "print(sorted({'kopf', 'aiohttp', 'kubernetes', 'format_store'} & set(sys.modules)), file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert json.loads(done.stdout)["volumes"]

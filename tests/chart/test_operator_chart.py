"""The chart of the operator: what it renders from which values."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
import yaml

import alertrules
import chartdocs
import dashboard
from format_operator import manifests
from format_operator.api.names import GROUP
from format_operator.controller.settings import controller_settings
from tests.chart.helm import CHARTS, NAMESPACE, OPERATOR, ROOT, Helm, Object, of_kind, only
from tests.chart.matrix import MATRIX

NAME = "storageformat-operator"


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def container(found: list[Object]) -> Object:
    (one,) = only(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


def rules(file: str) -> list[Object]:
    text = manifests.chart_files()[file]
    found: list[Object] = yaml.safe_load(text)["rules"]
    return found


@pytest.mark.parametrize("chart", ["storageformat-operator", "storageformat-sidecar"])
def test_the_versions_are_the_projects(chart: str) -> None:
    """Chart, app and distribution have one version, and Kubernetes is new enough for native sidecars."""
    metadata = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    assert metadata["version"] == project()["version"]
    assert metadata.get("appVersion", metadata["version"]) == project()["version"]
    assert metadata["kubeVersion"] == ">=1.30.0-0"


def test_old_kubernetes_is_refused(helm: Helm) -> None:
    """A cluster without native sidecars is told so before anything is installed."""
    done = helm.run("template", "x", str(OPERATOR), "--kube-version", "1.29.9", check=False)
    assert done.returncode != 0
    assert "requires kubeVersion: >=1.30.0-0" in done.stderr


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_lint_is_strict_and_clean(helm: Helm, values: dict[str, Any]) -> None:
    """`helm lint --strict` has nothing to say, whatever the values."""
    done = helm.run(
        "lint", "--strict", str(OPERATOR), "--values", "-", stdin=yaml.safe_dump(values)
    )
    assert "WARNING" not in done.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_what_holds_for_every_object(helm: Helm, values: dict[str, Any]) -> None:
    """Each object has the release's labels and a place, no key is there twice, and none is rendered twice."""
    found = helm.template(values)
    identities = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in found
    ]
    assert len(set(identities)) == len(identities)
    for one in found:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "storageformat"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert set(values.get("commonLabels", {}).items()) <= set(labels.items()), one["kind"]
        is_cluster_wide = one["kind"].startswith(("Cluster", "Custom", "Mutating", "Validating"))
        assert ("namespace" in one["metadata"]) is not is_cluster_wide
    assert len(list(yaml.load_all(helm.text(values), UniqueKeys))) >= len(found)


class UniqueKeys(yaml.SafeLoader):
    """YAML's own rule, which PyYAML does not follow: a key is in a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), keys
        return super().construct_mapping(node, deep)


def test_the_controller_is_started_as_it_expects(helm: Helm) -> None:
    """Arguments and environment are what the controller's own parser takes."""
    values = {"watchNamespaces": ["a", "b"], "logLevel": "debug", "metrics": {"port": 9000}}
    values["logFormat"] = "json"
    one = container(helm.template(values | {"extraArgs": ["--permit-seconds=1200"]}))
    settings = controller_settings(one["args"][1:], {entry["name"]: "me" for entry in one["env"]})
    assert one["args"][0] == "controller"
    assert settings.namespaces == ("a", "b")
    assert (settings.lease, settings.lease_namespace, settings.identity) == (NAME, "me", "me")
    assert (settings.metrics_port, settings.log_level) == (9000, "debug")
    assert settings.log_format == "json"
    assert settings.permit_seconds == 1200
    assert one["ports"] == [{"name": "metrics", "containerPort": 9000, "protocol": "TCP"}]


def test_a_cluster_wide_install(helm: Helm) -> None:
    """Without namespaces: one ClusterRole each, bound to the controller and to all ServiceAccounts."""
    found = helm.template()
    roles = {one["metadata"]["name"]: one["rules"] for one in of_kind(found, "ClusterRole")}
    assert roles == {
        f"{NAME}-controller": rules("controller-rules.yaml"),
        f"{NAME}-sidecar": rules("sidecar-rules.yaml"),
        f"{NAME}-view": rules("viewer-rules.yaml"),
        f"{NAME}-edit": rules("editor-rules.yaml"),
    }
    subjects = {
        one["roleRef"]["name"]: one["subjects"] for one in of_kind(found, "ClusterRoleBinding")
    }
    assert set(subjects) == {f"{NAME}-controller", f"{NAME}-sidecar"}
    assert subjects[f"{NAME}-controller"] == [
        {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    ]
    assert [one["name"] for one in subjects[f"{NAME}-sidecar"]] == ["system:serviceaccounts"]
    lease = only(found, "Role")
    assert (lease["metadata"]["namespace"], lease["rules"]) == (
        NAMESPACE,
        rules("lease-rules.yaml"),
    )
    assert "matchResources" not in only(found, "ValidatingAdmissionPolicyBinding")["spec"]
    assert "--watch-namespace" not in container(found)["args"]


def test_peoples_rights_are_part_of_kubernetes_own_roles(helm: Helm) -> None:
    """`view` reads our objects, `edit` (and with it `admin`) changes StorageFormats, and nobody FormatStates; not where
    it is not wanted."""
    roles = {one["metadata"]["name"]: one for one in of_kind(helm.template(), "ClusterRole")}
    for kind in ("view", "edit"):
        labels = roles[f"{NAME}-{kind}"]["metadata"]["labels"]
        aggregated = [key for key in labels if "aggregate-to" in key]
        assert aggregated == [f"rbac.authorization.k8s.io/aggregate-to-{kind}"]
        assert labels[aggregated[0]] == "true"
    (edits,) = roles[f"{NAME}-edit"]["rules"]
    assert edits["resources"] == ["storageformats"]
    (views,) = roles[f"{NAME}-view"]["rules"]
    assert set(views["verbs"]) == {"get", "list", "watch"}
    left = of_kind(helm.template({"rbac": {"aggregate": False}}), "ClusterRole")
    assert {one["metadata"]["name"] for one in left} == {f"{NAME}-controller", f"{NAME}-sidecar"}


def test_a_namespaced_install(helm: Helm) -> None:
    """With namespaces nothing is bound cluster-wide, and the policy speaks of these namespaces only."""
    found = helm.template({"watchNamespaces": ["a", "b"]})
    assert not of_kind(found, "ClusterRole")
    assert not of_kind(found, "ClusterRoleBinding")
    roles = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"]
        for one in of_kind(found, "Role")
    }
    expected = {(NAMESPACE, f"{NAME}-controller-lease"): rules("lease-rules.yaml")}
    for namespace in ("a", "b"):
        expected[namespace, f"{NAME}-controller"] = rules("controller-rules.yaml")
        expected[namespace, f"{NAME}-sidecar"] = rules("sidecar-rules.yaml")
    assert roles == expected
    groups = {
        (one["metadata"]["namespace"], subject["name"])
        for one in of_kind(found, "RoleBinding")
        for subject in one["subjects"]
        if subject["kind"] == "Group"
    }
    assert groups == {("a", "system:serviceaccounts:a"), ("b", "system:serviceaccounts:b")}
    binding = only(found, "ValidatingAdmissionPolicyBinding")
    selector = binding["spec"]["matchResources"]["namespaceSelector"]
    assert selector["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
    ]


def test_the_reasons_of_the_verbs_survive(helm: Helm) -> None:
    """Who reads the rendered roles finds the reason beside each verb."""
    text = helm.text()
    files = ("controller-rules.yaml", "sidecar-rules.yaml", "lease-rules.yaml")
    for file in (*files, "viewer-rules.yaml", "editor-rules.yaml"):
        reasons = re.findall(r"^  - \w+ +# .*$", manifests.chart_files()[file], re.MULTILINE)
        assert len(reasons) == sum(len(rule["verbs"]) for rule in rules(file))
        for line in reasons:
            assert line in text


def test_the_crds_are_those_of_deploy(helm: Helm) -> None:
    """The CRDs are templates, equal to those of `deploy/`, and stay when the release goes unless told otherwise."""
    for keep in (True, False):
        found = of_kind(helm.template({"crds": {"keep": keep}}), "CustomResourceDefinition")
        assert len(found) == 2
        for one in found:
            plural = one["metadata"]["name"].removesuffix(f".{GROUP}")
            committed = yaml.safe_load((ROOT / f"deploy/crds/{plural}.yaml").read_text())
            assert one["spec"] == committed["spec"]
            kept = {"helm.sh/resource-policy": "keep"} if keep else None
            assert one["metadata"].get("annotations") == kept


def test_the_policy_is_that_of_deploy(helm: Helm) -> None:
    """The admission policy's rules are those that the access tests try."""
    found = only(helm.template(), "ValidatingAdmissionPolicy")
    committed = next(yaml.safe_load_all((ROOT / "deploy/admission-policy.yaml").read_text()))
    assert found["spec"] == committed["spec"]


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"crds": {"create": False}}, {"CustomResourceDefinition"}),
        (
            {"rbac": {"create": False}},
            {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
        ),
        (
            {"admissionPolicy": {"create": False}},
            {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"},
        ),
        ({"serviceAccount": {"create": False}}, {"ServiceAccount"}),
    ],
)
def test_what_can_be_left_out(helm: Helm, values: dict[str, Any], gone: set[str]) -> None:
    """`create: false` leaves out just that."""
    kinds = {one["kind"] for one in helm.template()}
    assert kinds - {one["kind"] for one in helm.template(values)} == gone


def test_a_budget_for_several_only(helm: Helm) -> None:
    """A PodDisruptionBudget of a single pod would hold up every drain of its node."""
    assert not of_kind(helm.template(), "PodDisruptionBudget")
    found = helm.template({"replicas": 2})
    budget = only(found, "PodDisruptionBudget")
    selector = only(found, "Deployment")["spec"]["selector"]
    assert budget["spec"] == {"maxUnavailable": 1, "selector": selector}
    off = {"replicas": 2, "podDisruptionBudget": {"create": False}}
    assert not of_kind(helm.template(off), "PodDisruptionBudget")


def test_an_instance_is_a_pod_by_name(helm: Helm) -> None:
    """PodMonitors make `instance` survive a pod's replacement; the sidecars' finds any pod with the port."""
    assert not of_kind(helm.template(), "PodMonitor")
    values = {"podMonitor": {"create": True, "labels": {"release": "prom"}}}
    found = {
        one["metadata"]["name"]: one
        for one in of_kind(helm.template(values | {"watchNamespaces": ["a"]}), "PodMonitor")
    }
    assert set(found) == {f"{NAME}-sidecars", f"{NAME}-controller"}
    for one in found.values():
        assert one["metadata"]["labels"]["release"] == "prom"
        (endpoint,) = one["spec"]["podMetricsEndpoints"]
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["targetLabel"] == "instance"
    sidecars = found[f"{NAME}-sidecars"]["spec"]
    assert sidecars["namespaceSelector"] == {"matchNames": ["a"]}
    assert (sidecars["selector"], sidecars["podMetricsEndpoints"][0]["port"]) == ({}, "sf-metrics")
    (anywhere, _) = of_kind(helm.template(values), "PodMonitor")
    assert anywhere["spec"]["namespaceSelector"] == {"any": True}


def alerts_of(helm: Helm, **values: Any) -> list[Object]:
    rule = only(helm.template({"prometheusRule": {"create": True, **values}}), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    found: list[Object] = group["rules"]
    return found


def test_the_alerts_are_those_that_promtool_judges(helm: Helm) -> None:
    """With default values the PrometheusRule has the rules of `python -m alertrules`, and only when it is asked for."""
    assert not of_kind(helm.template(), "PrometheusRule")
    assert [{"name": "storageformat", "rules": alerts_of(helm)}] == alertrules.groups()["groups"]


def test_an_alert_can_be_otherwise(helm: Helm) -> None:
    """Each may be left out or have another duration, severity and threshold; all get labels and the page's address."""
    changes = {
        "StorageFormatGateClosed": {"for": "5m", "severity": "page"},
        "StorageFormatBackupOverdue": {"threshold": 86400},
        "StorageFormatVolumeNearlyFull": {"threshold": 0.25},
        "StorageFormatWorkerHung": {"threshold": 0},
        "StorageFormatBackupPinned": {"enabled": False},
    }
    found = alerts_of(
        helm, alerts=changes, alertLabels={"team": "a"}, runbookUrl="https://x/runbooks/"
    )
    by_name = {one["alert"]: one for one in found}
    assert set(by_name) == {one["alert"] for one in alertrules.alerts()} - {
        "StorageFormatBackupPinned"
    }
    gate = by_name["StorageFormatGateClosed"]
    assert (gate["for"], gate["labels"]) == ("5m", {"severity": "page", "team": "a"})
    assert by_name["StorageFormatBackupOverdue"]["expr"].endswith("> 86400")
    assert "< 0.25" in by_name["StorageFormatVolumeNearlyFull"]["expr"]
    assert by_name["StorageFormatWorkerHung"]["expr"].endswith("> 0")
    for name, one in by_name.items():
        assert one["annotations"]["runbook_url"] == f"https://x/runbooks/{name}.md"
        assert one["labels"]["team"] == "a"
    assert all("runbook_url" not in one["annotations"] for one in alerts_of(helm))


def test_an_alert_that_is_none_is_named(helm: Helm) -> None:
    """A change of an alert that does not exist would be lost otherwise."""
    values = {"prometheusRule": {"create": True, "alerts": {"GateClosed": {"for": "1m"}}}}
    done = helm.run(
        "template", "x", str(OPERATOR), "--values", "-", stdin=yaml.safe_dump(values), check=False
    )
    assert "there is no alert GateClosed; there is StorageFormatNeedsPerson," in done.stderr


def test_the_dashboard(helm: Helm) -> None:
    """A ConfigMap that Grafana's sidecar finds by its label, with the committed file, where it is asked for."""
    assert not of_kind(helm.template(), "ConfigMap")
    found = only(helm.template({"dashboard": {"create": True}}), "ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["namespace"] == NAMESPACE
    assert found["data"]["storageformat.json"].strip() == dashboard.FILE.read_text().strip()
    values = {"create": True, "labels": {"mine": "x"}, "annotations": {"folder": "a"}}
    other = only(helm.template({"dashboard": {**values, "namespace": "grafana"}}), "ConfigMap")
    assert other["metadata"]["labels"]["mine"] == "x"
    assert other["metadata"]["annotations"] == {"folder": "a"}
    assert other["metadata"]["namespace"] == "grafana"


def test_annotations_for_a_plain_prometheus(helm: Helm) -> None:
    """The controller's pods carry prometheus.io annotations; what one adds wins."""
    deployment = only(helm.template({"podAnnotations": {"a": "b"}}), "Deployment")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9865",
        "prometheus.io/path": "/metrics",
        "a": "b",
    }
    deployment = only(helm.template({"metrics": {"annotations": False}}), "Deployment")
    assert "annotations" not in deployment["spec"]["template"]["metadata"]


def test_the_network_policy_lets_in_and_out_what_is_needed(helm: Helm) -> None:
    """Metrics in, the API server out; `helm test` gets in even where others may not."""
    peer = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    api = {"ipBlock": {"cidr": "10.0.0.1/32"}}
    values = {"networkPolicy": {"create": True, "metricsFrom": [peer], "apiServer": [api]}}
    spec = only(helm.template(values), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"][0]["from"][0] == peer
    test = only(helm.template(values), "Pod")["metadata"]["labels"]
    wanted = spec["ingress"][0]["from"][1]["podSelector"]["matchLabels"]
    assert wanted.items() <= test.items()
    assert spec["egress"][0]["to"] == [api]
    assert [one["port"] for one in spec["egress"][0]["ports"]] == [443, 6443]
    anybody = only(helm.template({"networkPolicy": {"create": True}}), "NetworkPolicy")["spec"]
    assert "from" not in anybody["ingress"][0]
    assert "to" not in anybody["egress"][0]


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, f"{NAME}:0.1.0"),
        ({"repository": "localhost/x", "tag": "t"}, "localhost/x:t"),
        ({"digest": "sha256:" + "0" * 64, "tag": "t"}, f"{NAME}@sha256:" + "0" * 64),
    ],
)
def test_the_image(helm: Helm, image: dict[str, str], reference: str) -> None:
    """A digest goes before a tag, a tag before the chart's version; the test's pod uses the same image."""
    found = helm.template({"image": image})
    assert container(found)["image"] == reference
    assert only(found, "Pod")["spec"]["containers"][0]["image"] == reference


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("storageformat", {}, NAME),
        ("storageformat-operator", {}, NAME),
        ("mine", {}, "mine-storageformat-operator"),
        ("mine", {"nameOverride": "sfo"}, "mine-sfo"),
        ("mine", {"fullnameOverride": "exactly"}, "exactly"),
    ],
)
def test_names(helm: Helm, release: str, values: dict[str, str], name: str) -> None:
    """Objects are called after the release and the chart, or as they are told."""
    assert only(helm.template(values, release=release), "Deployment")["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"image": {"name": "x"}}, "at '/image': additional properties 'name' not allowed"),
        ({"image": {"tag": 1}}, "at '/image/tag': got number, want string"),
        ({"image": {"digest": "abc"}}, "at '/image/digest': 'abc' does not match"),
        ({"image": {"pullPolicy": "Perhaps"}}, "at '/image/pullPolicy': value must be one of"),
        ({"logLevel": "loud"}, "at '/logLevel': value must be one of"),
        ({"watchNamespaces": ["A_b"]}, "at '/watchNamespaces/0'"),
        ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
        ({"watchNamespaces": "a"}, "at '/watchNamespaces': got string, want array"),
        ({"commonLabels": {"a": 1}}, "at '/commonLabels/a': got number, want string"),
        ({"metrics": {"port": 0}}, "at '/metrics/port': minimum"),
        ({"podMonitor": {"interval": "often"}}, "at '/podMonitor/interval'"),
        (
            {"prometheusRule": {"alerts": {"StorageFormatGateClosed": {"for": "soon"}}}},
            "at '/prometheusRule/alerts/StorageFormatGateClosed/for'",
        ),
        ({"prometheusRule": {"runbookUrl": "docs"}}, "at '/prometheusRule/runbookUrl'"),
        ({"logFormat": "xml"}, "at '/logFormat': value must be one of"),
        ({"crds": {"install": True}}, "at '/crds': additional properties 'install' not allowed"),
        ({"topologySpreadConstraints": [{}]}, "at '/topologySpreadConstraints/0': missing"),
    ],
)
def test_wrong_values_are_named(helm: Helm, values: dict[str, Any], says: str) -> None:
    """A value that makes no sense is refused before anything is rendered, by its name."""
    done = helm.run(
        "template", "x", str(OPERATOR), "--values", "-", stdin=yaml.safe_dump(values), check=False
    )
    assert done.returncode != 0
    assert says in done.stderr


def test_every_value_is_in_the_schema_and_explained() -> None:
    """values.yaml and its schema know the same values, and each is explained in both."""
    schema = json.loads((OPERATOR / "values.schema.json").read_text())
    text = (OPERATOR / "values.yaml").read_text()
    assert chartdocs.undocumented(text) == []
    values = yaml.safe_load(text)
    properties = schema["properties"]
    assert set(properties) - {"global"} == set(values)
    for name, value in values.items():
        if isinstance(value, dict) and "properties" in properties[name]:
            assert set(value) <= set(properties[name]["properties"]), name
    explained = re.findall(r'"description": ""', json.dumps(schema))
    assert explained == []


def test_the_readme_has_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's table is the one that is made from values.yaml."""
    assert chartdocs.main([str(OPERATOR), "--check"]) == 0, capsys.readouterr().err

"""The webhook in the chart: what is rendered from which values."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator import manifests
from format_operator.admission.settings import GeneratedCertificates, webhook_settings
from format_operator.api.injection import INJECT
from format_operator.manifests_webhook import NAME as PLACEHOLDER
from tests.chart.helm import NAMESPACE, OPERATOR, Helm, Object, of_kind, of_webhook, only
from tests.chart.matrix import CA_BUNDLE, MATRIX

NAME = "storageformat-operator-webhook"
HOST = f"{NAME}.{NAMESPACE}.svc"


def rules(file: str) -> list[Object]:
    text = manifests.chart_files()[file].replace(PLACEHOLDER, NAME)
    found: list[Object] = yaml.safe_load(text)["rules"]
    return found


def hook(found: list[Object]) -> Object:
    (one,) = only(found, "MutatingWebhookConfiguration", webhook=True)["webhooks"]
    assert isinstance(one, dict)
    return one


def pod(found: list[Object]) -> Object:
    spec: Object = only(found, "Deployment", webhook=True)["spec"]["template"]["spec"]
    return spec


def settings(found: list[Object]) -> Any:
    (container,) = pod(found)["containers"]
    assert container["args"][0] == "webhook"
    environ = {"POD_NAMESPACE": NAMESPACE, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    return webhook_settings(container["args"][1:], environ)


def test_only_pods_that_ask_ever_get_there(helm: Helm) -> None:
    """New pods with the annotation, outside of the cluster's namespaces and the release's own; these fail closed."""
    one = hook(helm.template())
    assert (one["failurePolicy"], one["sideEffects"], one["reinvocationPolicy"]) == (
        *("Fail", "None", "IfNeeded"),
    )
    (rule,) = one["rules"]
    assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
    assert INJECT in one["matchConditions"][0]["expression"]
    (excluded,) = one["namespaceSelector"]["matchExpressions"]
    assert excluded["operator"] == "NotIn"
    assert set(excluded["values"]) == {"kube-system", "kube-node-lease", "kube-public", NAMESPACE}
    service = only(helm.template(), "Service", webhook=True)
    assert one["clientConfig"]["service"] == {
        "name": service["metadata"]["name"],
        "namespace": service["metadata"]["namespace"],
        "path": "/mutate",
        "port": service["spec"]["ports"][0]["port"],
    }


def test_some_namespaces_only(helm: Helm) -> None:
    """It is asked in these alone, may read StorageFormats in these alone, and may do to the cluster but what its own
    certificate takes."""
    found = helm.template({"watchNamespaces": ["a", "b"]})
    included = hook(found)["namespaceSelector"]["matchExpressions"][1]
    assert (included["operator"], included["values"]) == ("In", ["a", "b"])
    roles = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"]
        for one in of_kind(found, "Role", webhook=True)
    }
    assert roles == {
        ("a", NAME): rules("webhook-rules.yaml"),
        ("b", NAME): rules("webhook-rules.yaml"),
        (NAMESPACE, f"{NAME}-certificate"): rules("webhook-secret-rules.yaml"),
    }
    (role,) = of_kind(found, "ClusterRole", webhook=True)
    assert role["rules"] == rules("webhook-configuration-rules.yaml")
    assert role["rules"][0]["resourceNames"] == [NAME]


def test_a_cluster_wide_install(helm: Helm) -> None:
    """It may read StorageFormats, and what its certificate takes by name; every role is bound to its own account."""
    found = helm.template()
    roles = {
        one["metadata"]["name"]: one["rules"] for one in of_kind(found, "ClusterRole", webhook=True)
    }
    assert roles == {
        NAME: rules("webhook-rules.yaml"),
        f"{NAME}-configuration": rules("webhook-configuration-rules.yaml"),
    }
    bindings = [
        one
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for one in of_kind(found, kind, webhook=True)
    ]
    assert {one["roleRef"]["name"] for one in bindings} == {*roles, f"{NAME}-certificate"}
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    assert all(one["subjects"] == [account] for one in bindings)
    assert pod(found)["serviceAccountName"] == NAME


def test_a_certificate_of_its_own(helm: Helm) -> None:
    """It is started with the names of the Secret, the configuration and the Service that are rendered; what it writes into
    them is in no manifest, so that an upgrade leaves it there."""
    found = helm.template({"webhook": {"certificates": {"days": 30}}})
    kept = settings(found).certificates
    assert kept == GeneratedCertificates(
        *(NAMESPACE, NAME, NAME, (HOST, f"{HOST}.cluster.local")), lifetime=30 * 86400.0
    )
    assert only(found, "Secret", webhook=True)["metadata"]["name"] == NAME
    assert "data" not in only(found, "Secret", webhook=True)
    assert "caBundle" not in hook(found)["clientConfig"]


@pytest.mark.parametrize("issuer", [{}, {"kind": "ClusterIssuer", "name": "ours"}])
def test_a_certificate_of_cert_manager(helm: Helm, issuer: dict[str, str]) -> None:
    """It is asked for the Service's name, the configuration trusts its authority, and the webhook may write neither."""
    values = {"webhook": {"certificates": {"mode": "certManager", "issuerRef": issuer}}}
    found = helm.template(values)
    wanted = only(found, "Certificate", webhook=True)["spec"]
    assert wanted["dnsNames"][0] == HOST
    configuration = only(found, "MutatingWebhookConfiguration", webhook=True)
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": f"{NAMESPACE}/{NAME}"
    }
    assert settings(found).certificates == Path("/certificate")
    assert pod(found)["volumes"][0]["secret"] == {"secretName": wanted["secretName"]}
    own = of_kind(found, "Issuer", webhook=True)
    assert (
        wanted["issuerRef"] == issuer or own[0]["metadata"]["name"] == wanted["issuerRef"]["name"]
    )
    assert bool(own) is not bool(issuer)
    assert [one["metadata"]["name"] for one in of_kind(found, "ClusterRole", webhook=True)] == [
        NAME
    ]
    assert not of_kind(found, "Secret", webhook=True)


def test_a_certificate_that_is_there(helm: Helm) -> None:
    """Its Secret is mounted, its authority trusted."""
    found = helm.template(MATRIX["namespaced, everything"])
    assert pod(found)["volumes"][0]["secret"] == {"secretName": "mine"}
    bundle = hook(found)["clientConfig"]["caBundle"]
    assert base64.b64decode(bundle).decode() == CA_BUNDLE
    assert not of_kind(found, "ClusterRole", webhook=True)


@pytest.mark.parametrize(
    ("certificates", "says"),
    [
        ({"mode": "existing"}, "webhook.certificates."),
        ({"mode": "existing", "secretName": "x"}, "webhook.certificates.caBundle: the PEM"),
        ({"mode": "existing", "caBundle": CA_BUNDLE}, "webhook.certificates.secretName: name"),
        ({"mode": "existing", "secretName": "x", "caBundle": "LS0t"}, "does not match pattern"),
        ({"mode": "magic"}, "at '/webhook/certificates/mode': value must be one of"),
    ],
)
def test_half_a_certificate(helm: Helm, certificates: dict[str, str], says: str) -> None:
    """What is missing is named, and nothing is installed."""
    text = yaml.safe_dump({"webhook": {"certificates": certificates}})
    done = helm.run("template", "x", str(OPERATOR), "--values", "-", stdin=text, check=False)
    assert done.returncode != 0
    assert says in done.stderr


def test_what_pods_get(helm: Helm) -> None:
    """The release's image, and resources, port, arguments and meshes as the values say."""
    found = helm.template(MATRIX["everything"])
    defaults = settings(found).defaults
    assert defaults.image == pod(found)["containers"][0]["image"]
    assert (defaults.metrics_port, defaults.sidecar_args) == (9000, ("--permit-wait=60",))
    assert defaults.requests == {"cpu": "5m", "memory": "100Mi"}
    assert defaults.limits == {"cpu": "1", "memory": "1Gi"}
    assert (defaults.meshes, defaults.api_addresses) == (("istio", "linkerd"), ("10.96.0.1/32",))


def test_one_of_two_is_always_there(helm: Helm) -> None:
    """Two, on two nodes where there are two, one after the other in an upgrade, and no drain takes both."""
    found = helm.template()
    deployment = only(found, "Deployment", webhook=True)["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (spread,) = pod(found)["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
        *("kubernetes.io/hostname", "ScheduleAnyway"),
    )
    labels = deployment["selector"]
    assert spread["labelSelector"] == labels
    budget = only(found, "PodDisruptionBudget", webhook=True)["spec"]
    assert budget == {"maxUnavailable": 1, "selector": labels}
    single = helm.template({"webhook": {"replicas": 1}})
    assert not of_kind(single, "PodDisruptionBudget", webhook=True)


def test_who_gets_to_it_in_the_network(helm: Helm) -> None:
    """Anybody to its port, for the API server has no address; to its metrics who may scrape; it to the API server."""
    found = helm.template(MATRIX["everything"])
    spec = only(found, "NetworkPolicy", webhook=True)["spec"]
    webhook, metrics = spec["ingress"]
    assert webhook == {"ports": [{"port": "webhook", "protocol": "TCP"}]}
    assert metrics["from"] == [{"podSelector": {}}]
    assert spec["egress"][0]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    ports = {one["name"]: one["containerPort"] for one in pod(found)["containers"][0]["ports"]}
    assert ports == {"webhook": 8443, "metrics": 9865}


def test_its_selectors_are_its_own(helm: Helm) -> None:
    """Neither Service, budget nor PodMonitor of the controller takes in the webhook's pods, or the other way round."""
    found = helm.template({"podMonitor": {"create": True}})
    for webhook in (True, False):
        labels = only(found, "Deployment", webhook=webhook)["spec"]["template"]["metadata"][
            "labels"
        ]
        for other in (True, False):
            selector = only(found, "Service", webhook=other)["spec"]["selector"]
            assert (selector.items() <= labels.items()) is (webhook is other)


def test_on_the_nodes_network(helm: Helm) -> None:
    """For clusters whose API server does not reach pods."""
    spec = pod(helm.template({"webhook": {"hostNetwork": True}}))
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_it_can_be_left_out(helm: Helm) -> None:
    """Then nothing is left of it."""
    assert any(of_webhook(one) for one in helm.template())
    assert not any(of_webhook(one) for one in helm.template({"webhook": {"enabled": False}}))

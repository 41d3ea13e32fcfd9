"""What a pod gets that asks for sidecar and gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from format_operator.admission.inject import Patch, asks, inject, unknown_paths
from format_operator.api.injection import INJECTED
from format_operator.settings import sidecar_settings
from format_operator.snippet import SnippetOptions, init_containers, volumes
from tests.admission.pods import DEFAULTS, PATHS, claim, injected, mount, mounted, pod, sidecar
from tests.support.objects import ABSENT


def names(body: dict[str, Any], kind: str = "initContainers") -> list[str]:
    return [one["name"] for one in body["spec"][kind]]


def test_it_is_what_render_prints() -> None:
    """The containers and volumes are those of the snippet, for the app's mount and user; the app's own are as they were."""
    before = pod()
    after = injected(before)
    options = SnippetOptions(
        DEFAULTS.image, {"orders": "/data/orders.db"}, run_as_user=999, run_as_group=998
    )
    assert after["spec"]["initContainers"] == init_containers(options)
    assert after["spec"]["volumes"] == [*before["spec"]["volumes"], *volumes(options)]
    assert after["spec"]["containers"] == before["spec"]["containers"]
    assert after["metadata"]["annotations"][INJECTED] == "1"


def test_they_stand_before_everything() -> None:
    """Whatever else is started before the app comes after them: it may touch the volume, or redirect the network."""
    others = [{"name": "istio-init"}, {"name": "chown"}, mounted(mount(), name="backup")]
    assert names(injected(pod(initContainers=others))) == [
        *("storageformat", "storageformat-gate"),
        *("istio-init", "chown", "backup"),
    ]


def test_a_pod_that_does_not_ask_is_left_alone() -> None:
    """Nor is one that a kubelet only shows."""
    silent = pod()
    del silent["metadata"]["annotations"]["storageformat.dev/inject"]
    mirror = pod()
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
    bodies: list[dict[str, Any]] = [silent, mirror, {"metadata": {}, "spec": {"containers": []}}]
    for body in bodies:
        assert not asks(body)
        assert inject(body, {}, DEFAULTS) == Patch()


def test_the_path_may_be_written_out() -> None:
    """Then nobody is asked for it, and the StorageFormat may come later."""
    body = pod("orders=/data/o/orders.db, users")
    assert unknown_paths(body) == ("users",)
    assert sidecar(injected(body))["args"] == [
        *("sidecar", "--database", "orders=/data/o/orders.db", "--database", "users=/data/users.db")
    ]


@pytest.mark.parametrize(
    ("mounts", "path", "copied"),
    [
        ([mount()], "/data/orders.db", mount()),
        ([mount("/data/")], "/data/orders.db", mount()),
        ([mount(subPath="a/b")], "/data/orders.db", mount(subPath="a/b")),
        ([mount(), mount("/data/deep", "deep")], "/data/deep/x.db", mount("/data/deep", "deep")),
        ([mount(), mount("/data/deep", "deep")], "/data/deeper.db", mount()),
        ([mount(readOnly=True)], "/data/orders.db", mount()),
        ([mount(mountPropagation="HostToContainer")], "/data/orders.db", mount()),
        ([mount()], "/data/tenants/*.db", mount()),
        ([mount("/data", "deep")], "/data/[ab].db", mount("/data", "deep")),
    ],
)
def test_the_apps_very_mount(mounts: list[Any], path: str, copied: Any) -> None:
    """The longest one that the path is below, whole or with its sub-path; never read-only."""
    body = pod(
        f"orders={path}", containers=[mounted(*mounts)], volumes=[claim("data"), claim("deep")]
    )
    assert sidecar(injected(body))["volumeMounts"][0] == copied


def test_a_sub_path_of_variables_brings_them_along() -> None:
    """Variables that a subPathExpr names are copied, with those that they are made of; what the sidecar has is not."""
    field = {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}
    env = [
        {"name": "POD_NAME", **field},
        {"name": "SHARD", "value": "a"},
        {"name": "UNUSED", "value": "b"},
        {"name": "PLACE", "value": "$(SHARD)/$(POD_NAME)"},
    ]
    app = mounted(mount(subPathExpr="x/$(PLACE)/$$(NOT)"), env=env)
    found = sidecar(injected(pod(containers=[app])))
    assert found["volumeMounts"][0] == mount(subPathExpr="x/$(PLACE)/$$(NOT)")
    more = [one for one in found["env"] if one["name"] in {"SHARD", "UNUSED", "PLACE"}]
    assert more == [env[1], env[3]]
    assert [one["name"] for one in found["env"]].count("POD_NAME") == 1


def test_databases_on_several_volumes() -> None:
    """One sidecar gets the mount of each."""
    app = mounted(mount("/a", "a"), mount("/b", "b"))
    body = pod("one=/a/x.db,two=/b/x.db,three=/a/y.db", containers=[app])
    body["spec"]["volumes"] = [claim("a"), claim("b")]
    found = sidecar(injected(body))
    assert found["volumeMounts"][:2] == [mount("/a", "a"), mount("/b", "b")]
    assert found["volumeMounts"][2]["name"] == "storageformat-run"


def ids(body: dict[str, Any]) -> list[tuple[int | None, int | None]]:
    containers = injected(body)["spec"]["initContainers"]
    contexts = [one["securityContext"] for one in containers]
    return [(one.get("runAsUser"), one.get("runAsGroup")) for one in contexts]


@pytest.mark.parametrize(
    ("options", "container", "pod_wide", "expected"),
    [
        ({}, {"runAsUser": 1, "runAsGroup": 2}, {"runAsUser": 3}, (1, 2)),
        ({}, {}, {"runAsUser": 3, "runAsGroup": 4}, (3, 4)),
        ({}, {"runAsUser": 1}, {"runAsGroup": 4}, (1, 4)),
        ({}, {"runAsUser": 0}, {"runAsUser": 3, "runAsGroup": 3}, (0, 3)),
        ({}, {}, {}, (None, None)),
        ({"run-as-user": "7"}, {"runAsUser": 1, "runAsGroup": 2}, {}, (7, 2)),
        ({"run-as-user": "7"}, {}, {}, (7, 7)),
        ({"run-as-user": "7", "run-as-group": "8"}, {"runAsGroup": 2}, {}, (7, 8)),
    ],
)
def test_who_they_run_as(
    options: dict[str, str], container: Any, pod_wide: Any, expected: tuple[int | None, int | None]
) -> None:
    """The annotation, else the app's container, else the pod, else what the image says."""
    body = pod(options=options, securityContext=pod_wide)
    body["spec"]["containers"][0]["securityContext"] = container
    assert ids(body) == [expected, expected]


def test_root_gets_the_capabilities_of_an_owner() -> None:
    """An app that runs as root has a sidecar that may do what the owner of a file may."""
    body = pod(options={"run-as-user": "0"})
    assert sidecar(injected(body))["securityContext"]["capabilities"]["add"]


def test_who_only_reads_has_no_say() -> None:
    """An exporter beside the app, of another user, with the volume read-only, leaves the app's user to be taken."""
    app = mounted(mount(), securityContext={"runAsUser": 5})
    exporter = mounted(mount(readOnly=True), name="x", securityContext={"runAsUser": 6})
    assert ids(pod(containers=[exporter, app]))[0] == (5, 5)


def test_the_container_can_be_named() -> None:
    """Its mount and its user count, whatever the others have; it may be one of the init containers."""
    one = mounted(mount("/data", "a"), name="one", securityContext={"runAsUser": 1})
    two = mounted(mount("/data", "b"), name="two", securityContext={"runAsUser": 2})
    body = pod(
        options={"container": "two"}, containers=[one], initContainers=[two], volumes=[claim("b")]
    )
    assert sidecar(injected(body))["volumeMounts"][0] == mount("/data", "b")
    assert ids(body)[0] == (2, 2)


def test_options_go_before_the_webhooks_defaults() -> None:
    """Port, requests, limits and classes by annotation; what it does not say is as the webhook was told."""
    defaults = replace(
        DEFAULTS,
        image_pull_policy="Always",
        metrics_port=9000,
        limits={"memory": "1Gi"},
        sidecar_args=("--permit-wait=60",),
    )
    found = sidecar(injected(pod(), defaults))
    assert found["imagePullPolicy"] == "Always"
    assert found["ports"][0]["containerPort"] == 9000
    assert found["resources"]["limits"] == {"memory": "1Gi"}
    options = {
        "metrics-port": "9999",
        "requests": "cpu=50m",
        "limits": "memory=2Gi, cpu=1",
        "pickle-allow": "decimal.Decimal, datetime.datetime",
        "migrations": "orders-v2:/sql",
    }
    body = injected(pod(options=options), defaults)
    found = sidecar(body)
    assert found["ports"][0]["containerPort"] == 9999
    assert found["resources"] == {
        "requests": {"cpu": "50m", "memory": "100Mi"},
        "limits": {"memory": "2Gi", "cpu": "1"},
    }
    settings = sidecar_settings(found["args"][1:], {"POD_NAME": "orders-0"})
    assert settings.pickle_allow == ("decimal.Decimal", "datetime.datetime")
    assert (settings.metrics_port, settings.permit_wait) == (9999, 60)
    assert found["volumeMounts"][-1]["mountPath"] == "/sql"
    assert body["spec"]["volumes"][-1]["configMap"] == {"name": "orders-v2"}


def test_a_word_that_means_nothing_is_told() -> None:
    """An annotation of ours that is mistyped is a warning with the names there are."""
    decided = inject(pod(options={"run-as-usr": "1", "reads": "v1"}), PATHS, DEFAULTS)
    assert isinstance(decided, Patch)
    (warning,) = decided.warnings
    assert "storageformat.dev/run-as-usr means nothing" in warning
    assert "run-as-user" in warning


def test_a_mesh_is_told_to_leave_the_api_server_alone() -> None:
    """Where it redirects before the first container; what the pod says already stays, and `*` needs nothing."""
    defaults = replace(DEFAULTS, meshes=("istio", "linkerd"), api_addresses=("10.96.0.1/32",))
    istio, linkerd = (
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        "config.linkerd.io/skip-subnets",
    )
    body = pod()
    body["metadata"]["annotations"][istio] = "10.0.0.0/24"
    annotations = injected(body, defaults)["metadata"]["annotations"]
    assert annotations[istio] == "10.0.0.0/24,10.96.0.1/32"
    assert annotations[linkerd] == "10.96.0.1/32"
    body["metadata"]["annotations"][istio] = "*"
    assert injected(body, defaults)["metadata"]["annotations"][istio] == "*"
    assert istio not in injected(pod())["metadata"]["annotations"]


def test_a_second_time_there_is_nothing_to_do() -> None:
    """An API server calls a webhook again when another one has changed the pod meanwhile."""
    once = injected(pod(initContainers=[{"name": "istio-init"}]))
    assert inject(once, {}, DEFAULTS) == Patch()


def test_what_a_later_webhook_put_before_them_goes_behind() -> None:
    """They are moved to the front, as they are; the others keep their order."""
    once = injected(pod(initContainers=[{"name": "own"}]))
    ours = once["spec"]["initContainers"][:2]
    ours[0]["terminationMessagePath"] = "/dev/termination-log"  # a default of the API server's
    once["spec"]["initContainers"] = [
        *({"name": "istio-init"}, *ours[::-1], {"name": "vault"}, {"name": "own"})
    ]
    again = injected(once)
    assert again["spec"]["initContainers"] == [
        *(*ours, {"name": "istio-init"}, {"name": "vault"}, {"name": "own"})
    ]
    assert {**again, "spec": 0} == {**once, "spec": 0}
    assert inject(again, {}, DEFAULTS) == Patch()


def test_what_was_written_by_hand_stays() -> None:
    """A pod with the snippet in its template keeps it, whatever stands before it."""
    by_hand = injected(pod())
    del by_hand["metadata"]["annotations"][INJECTED]
    by_hand["spec"]["initContainers"].insert(0, {"name": "first"})
    assert unknown_paths(by_hand) == ()
    assert inject(by_hand, {}, DEFAULTS) == Patch()


@pytest.mark.parametrize(
    "other",
    [
        {"args": ["sidecar", "--database", "orders=/x.db"]},
        {"args": ["migrate", "--database", "orders=/x.db"], "restartPolicy": "Always"},
        {"args": ["sidecar", "--verbose"], "restartPolicy": "Always"},
    ],
)
def test_what_only_looks_like_ours(other: dict[str, Any]) -> None:
    """An init container that is no native sidecar, or is somebody else's, is none of ours."""
    body = pod(initContainers=[{"name": "other", **other}])
    assert names(injected(body)) == ["storageformat", "storageformat-gate", "other"]


def test_a_copied_mark_is_no_injection() -> None:
    """The annotation of an earlier injection without its containers counts for nothing."""
    body = pod(options={"injected": "0.0.9"})
    after = injected(body)
    assert names(after) == ["storageformat", "storageformat-gate"]
    assert after["metadata"]["annotations"][INJECTED] == "1"


def test_a_pod_that_says_no_user() -> None:
    """Nobody says who it runs as: the image does, and the sidecar refuses at its start with the right answer."""
    body = pod(containers__0__securityContext=ABSENT)
    context = sidecar(injected(body))["securityContext"]
    assert "runAsUser" not in context
    assert context["runAsNonRoot"]

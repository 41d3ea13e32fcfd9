"""An app's release and its StorageFormat change together on a real cluster, and are rolled back together.

The app of these tests writes down at each start what its release reads (the pod's annotation
``storageformat.dev/reads``) and what it finds on its volume, and does not serve a format that it does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from controlplane import ApiError
from controlplane.client import Object
from format_operator.api.names import READS_ANNOTATION
from tests.cluster.shop import Change, Shop, Writer, eventually, is_ready, writing

ORDINALS: Final = (0, 1)

_GUARD: Final = """
import os, sys
from format_store import inspect
found = inspect("/data/orders.db")
name = "none" if found.state in ("absent", "empty") else "v2" if "hierarchical" in str(found.format) else "v1"
reads, pod = os.environ["READS"], os.environ["POD_UID"]
with open("/data/starts", "a") as starts:
    starts.write(f"{pod} {reads} {name}\\n")
if name not in ("none", *reads.split(",")):
    sys.exit(f"this release reads {reads}, the database is in {name}")
os.execvp("python", ["python", "/app/app.py"])
"""


def release(number: int, reads: str) -> Change:
    """A release of the app: its annotation, something else that is new in its template, and the guard."""

    def change(body: Object) -> None:
        template = body["spec"]["template"]
        template["metadata"]["annotations"][READS_ANNOTATION] = reads
        (app,) = template["spec"]["containers"]
        app["command"] = ["python", "-c", _GUARD]
        app["env"] = [
            one for one in app["env"] if one["name"] not in {"RELEASE", "READS", "POD_UID"}
        ]
        field = {"fieldRef": {"fieldPath": f"metadata.annotations['{READS_ANNOTATION}']"}}
        app["env"] += [
            {"name": "RELEASE", "value": str(number)},
            {"name": "READS", "valueFrom": field},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ]

    return change


def apply(shop: Shop, number: int, reads: str, target: str, *, app_first: bool) -> None:
    """One ``kubectl apply`` of both, in the one or the other order."""
    app = shop.stateful_set(release(number, reads))
    both = [app, shop.storage_format(spec__target=target)]
    shop.apply(*(both if app_first else reversed(both)))


def opened(shop: Shop) -> list[dict[str, Any]]:
    """Two pods of release 1, which reads v1 alone, without a StorageFormat; what they hold."""
    shop.replicas = len(ORDINALS)
    shop.open(release(1, "v1"), seed=50)
    return [shop.summary(ordinal) for ordinal in ORDINALS]


def released(shop: Shop, number: int) -> None:
    """Every pod is ready, and of that release, with nothing left to convert."""

    def done() -> bool:
        pods = shop.pods()
        return len(pods) == len(ORDINALS) and all(
            is_ready(one) and number_of(one) == number for one in pods.values()
        )

    eventually(done, f"release {number} is out")
    shop.wait_until_ready()


def number_of(pod: Object) -> int:
    """The release that a pod is of."""
    (app,) = pod["spec"]["containers"]
    return next(int(one["value"]) for one in app["env"] if one["name"] == "RELEASE")


def starts(shop: Shop, ordinal: int) -> list[tuple[str, str, str]]:
    """Every start of an app's container on that volume so far: pod, what it reads, what it found."""
    text = (shop.volumes[ordinal].path / "starts").read_text()
    return [(pod, reads, found) for pod, reads, found in map(str.split, text.splitlines())]


def nobody_met_what_it_cannot_read(shop: Shop) -> None:
    """No app's container was ever started on a format that its annotation does not name; and each only once."""
    for ordinal in ORDINALS:
        seen = starts(shop, ordinal)
        assert all(found in {"none", *reads.split(",")} for _, reads, found in seen), seen
        assert len({pod for pod, _, _ in seen}) == len(seen), seen


def same_records(shop: Shop, before: list[dict[str, Any]], target: str) -> None:
    """The same records as before, all in the target."""
    after = [shop.summary(ordinal) for ordinal in ORDINALS]
    assert [one["digest"] for one in after] == [one["digest"] for one in before]
    assert {("v2" if "hierarchical" in one["format"] else "v1") for one in after} == {target}


def no_more_starts(shop: Shop, count: int) -> None:
    """Each volume has seen at most that many starts of the app."""
    assert max(len(starts(shop, ordinal)) for ordinal in ORDINALS) <= count


def test_release_and_format_in_one_apply(shop: Shop) -> None:
    """The old release reads v1 alone, the new one both: one apply of both, there and back, in either order. The
    pods are replaced in turn, and convert in the very restart that their release brings."""
    before = opened(shop)
    apply(shop, 2, "v1,v2", "v2", app_first=True)
    released(shop, 2)
    same_records(shop, before, "v2")
    apply(shop, 3, "v1", "v1", app_first=False)
    released(shop, 3)
    same_records(shop, before, "v1")
    nobody_met_what_it_cannot_read(shop)
    no_more_starts(shop, 3)


def test_hard_cut_in_one_apply(shop: Shop) -> None:
    """The old release reads v1 alone, the new one v2 alone, and so back: its pods cannot start before they are
    converted, and are permitted while their StatefulSet waits for them. No deadlock, one restart per pod."""
    before = opened(shop)
    apply(shop, 2, "v2", "v2", app_first=False)
    released(shop, 2)
    same_records(shop, before, "v2")
    apply(shop, 3, "v1", "v1", app_first=True)
    released(shop, 3)
    same_records(shop, before, "v1")
    nobody_met_what_it_cannot_read(shop)
    no_more_starts(shop, 3)


def cut_in_the_middle(shop: Shop) -> list[dict[str, Any]]:
    """A hard cut that is undone when one pod is in the new format and the other still in the old one."""
    before = opened(shop)
    apply(shop, 2, "v2", "v2", app_first=True)
    eventually(lambda: shop.state(1).get("currentFormat") == "v2", "orders-1 is converted")
    shop.cluster.kubectl("rollout", "undo", "statefulset/orders", "-n", shop.namespace)
    return before


def skew_blocked(shop: Shop) -> None:
    """What is stuck says so, in the StorageFormat and in the pod's own report; its app does not run."""

    def told() -> bool:
        condition = shop.condition("Degraded")
        return (condition.get("status"), condition.get("reason")) == ("True", "SkewBlocked")

    eventually(told, "Degraded because of SkewBlocked")
    assert "reads v1" in shop.condition("Degraded")["message"]

    def held() -> Mapping[str, Any] | None:
        state = shop.state(1)
        pod = shop.pod(1)
        held = state.get("gate") == "Closed" and state.get("reason") == "SkewBlocked"
        mine = pod is not None and state.get("podUID") == pod["metadata"]["uid"]
        return state if held and mine else None

    state = eventually(held, "orders-1 is held at its gate")
    assert "gate stays closed" in state["message"]
    assert not shop.app_started(1)
    assert shop.condition("Ready")["status"] == "False"


def test_undo_in_the_middle_then_forward(shop: Shop) -> None:
    """`kubectl rollout undo` alone, with one pod converted: the old release is kept from what it cannot read, and
    the other pod goes on serving. Rolling forward again heals it, though no StatefulSet replaces a pod that never
    became ready (kubernetes/kubernetes#67250)."""
    before = cut_in_the_middle(shop)
    skew_blocked(shop)
    assert shop.summary(0)["digest"] == before[0]["digest"]
    apply(shop, 2, "v2", "v2", app_first=True)
    released(shop, 2)
    same_records(shop, before, "v2")
    nobody_met_what_it_cannot_read(shop)


def test_undo_in_the_middle_then_target_back(shop: Shop) -> None:
    """The other way out: the target is set back as well, and the converted pod is converted back."""
    before = cut_in_the_middle(shop)
    skew_blocked(shop)
    shop.patch({"target": "v1"})
    released(shop, 1)
    same_records(shop, before, "v1")
    nobody_met_what_it_cannot_read(shop)


def test_undo_of_a_finished_expansion(shop: Shop) -> None:
    """The release that reads both was undone when everything was converted already: one pod waits at its gate,
    the other serves on, and setting the target back heals. Nothing that was acknowledged is lost."""
    opened(shop)
    apply(shop, 2, "v1,v2", "v2", app_first=False)
    released(shop, 2)
    with writing(shop) as writers:
        shop.cluster.kubectl("rollout", "undo", "statefulset/orders", "-n", shop.namespace)
        skew_blocked(shop)
        assert is_serving(shop, 0, writers[0])
        shop.patch({"target": "v1"})
        released(shop, 1)
    same_format = {shop.summary(ordinal)["format"] for ordinal in ORDINALS}
    assert same_format == {"sqlitedict(natural pickle)"}
    nobody_met_what_it_cannot_read(shop)


def is_serving(shop: Shop, ordinal: int, writer: Writer) -> bool:
    """Whether that pod's app takes orders right now."""
    written = len(writer.acknowledged)
    with suppress(OSError, ApiError):
        eventually(lambda: len(writer.acknowledged) > written, "it is written to")
        return shop.ask(ordinal, "GET", "/healthz")[0] == 200
    return False

"""What holds for any pod."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from format_operator.admission.inject import Patch, inject
from format_operator.admission.refusal import Refusal
from tests.admission.pods import DEFAULTS, PATHS, claim, pod
from tests.support.jsonpatch import applied

Object = dict[str, Any]

VOLUMES = ("data", "a", "b")
maybe_id = st.sampled_from([{}, {"runAsUser": 1}, {"runAsUser": 2, "runAsGroup": 3}])
mounts = st.fixed_dictionaries(
    {
        "name": st.sampled_from(VOLUMES),
        "mountPath": st.sampled_from(["/data", "/data/", "/data/deep", "/a", "/run", "/data/x.db"]),
    },
    optional={
        "subPath": st.sampled_from(["", "x", "x/y"]),
        "subPathExpr": st.sampled_from(["$(POD_NAME)", "$(X)-$(Y)", "plain"]),
        "readOnly": st.booleans(),
    },
)
env: st.SearchStrategy[list[Object]] = st.lists(
    st.sampled_from(
        [
            {"name": "X", "value": "$(Y)"},
            {"name": "Y", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]
    ),
    unique_by=lambda one: str(one["name"]),
)


def containers(*names: str) -> st.SearchStrategy[list[Object]]:
    one = st.fixed_dictionaries(
        {
            "name": st.sampled_from(names),
            "volumeMounts": st.lists(mounts, max_size=3),
            "securityContext": maybe_id,
            "env": env,
        },
        optional={"restartPolicy": st.just("Always"), "args": st.just(["serve"])},
    )
    return st.lists(one, max_size=3, unique_by=lambda one: one["name"])


pods = st.builds(
    pod,
    st.sampled_from(["orders", "orders,users", "x=/data/x.db", "x=/a/*.db,orders", "unknown", "="]),
    options=st.dictionaries(
        st.sampled_from(["run-as-user", "metrics-port", "container", "limits", "unheard-of"]),
        st.sampled_from(["1", "app", "cpu=1"]),
        max_size=2,
    ),
    containers=containers("app", "exporter", "storageformat"),
    initContainers=containers("setup", "proxy", "migrate"),
    volumes=st.lists(st.sampled_from(VOLUMES), unique=True).map(
        lambda names: [claim(name) for name in names]
    ),
    securityContext=maybe_id,
)


def subsequence(part: list[Any], whole: list[Any]) -> bool:
    rest = iter(whole)
    return all(any(one == other for other in rest) for one in part)


@given(pods, st.data())
@settings(deadline=None)
def test_any_pod(body: Object, data: st.DataObject) -> None:
    """The pod is not changed but by the patch; what it had is all there, as it was; ours stand first; a second time there
    is nothing to do, and after any other webhook's additions they stand first again."""
    kept = copy.deepcopy(body)
    decided = inject(body, PATHS, DEFAULTS)
    assert body == kept
    if isinstance(decided, Refusal):
        assert "annotation storageformat.dev/" in decided.message
        return
    after = applied(body, decided.operations)
    assert subsequence(body["spec"]["volumes"], after["spec"]["volumes"])
    assert after["spec"]["containers"] == body["spec"]["containers"]
    assert after["spec"]["initContainers"][2:] == body["spec"]["initContainers"]
    assert body["metadata"]["annotations"].items() <= after["metadata"]["annotations"].items()
    ours = {"initContainers", "volumes"}
    assert set(after["spec"]) - ours == set(body["spec"]) - ours
    again = inject(after, {}, DEFAULTS)
    assert isinstance(again, Patch)
    assert again.operations == ()

    place = data.draw(st.integers(0, len(after["spec"]["initContainers"])))
    after["spec"]["initContainers"].insert(place, {"name": "another"})
    moved = inject(after, {}, DEFAULTS)
    assert isinstance(moved, Patch)
    assert bool(moved.operations) is (place < 2)
    last = applied(after, moved.operations)["spec"]["initContainers"]
    assert [one["name"] for one in last[:2]] == ["storageformat", "storageformat-gate"]
    assert len(last) == len(after["spec"]["initContainers"])

"""The smaller parts: client, report, knowledge, mailbox, settings, metrics, the store's thread."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_families
from prometheus_client.parser import text_string_to_metric_families

from format_operator.api.models import OnFailure
from format_operator.metrics import SidecarMetrics
from format_operator.runtime.credentials import Access, NoApiServer, access
from format_operator.runtime.mailbox import Mailbox
from format_operator.series import DatabaseSeries, FormatInfo
from format_operator.settings import (
    HANGS_VARIABLE,
    RESTARTS_VARIABLE,
    ApiServer,
    DatabaseArgument,
    sidecar_settings,
)
from format_operator.sidecar import kube
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.observed import Asked, FailureKind
from format_operator.sidecar.report import merge_patch
from format_operator.sidecar.store import StoreThread, files_of, kind_of
from format_store import Abort, Backup
from format_store.errors import Aborted, InUse, PrimaryUnsound, WrongUser
from tests.sidecar.fake_api import FakeApi
from tests.support.objects import storageformat

BASE = ["--database", "orders=/data/orders.db", "--pod-name", "orders-0"]


# --- the client -------------------------------------------------------------------------------------------


def ask(api: FakeApi, request: Callable[[kube.Kube], Awaitable[Any]], **reach: Any) -> Any:
    async def run() -> Any:
        async with kube.Kube(Access(api.url, **reach), "default", user_agent="test") as client:
            return await request(client)

    return asyncio.run(run())


def get(client: kube.Kube) -> Awaitable[Any]:
    return client.get_storageformat("orders")


def test_client_reads_and_writes(api: FakeApi) -> None:
    """Get, create, and a merge patch of the status."""
    api.apply(storageformat())
    assert ask(api, get)["spec"]["target"] == "v2"
    ask(api, lambda client: client.create_formatstate({"metadata": {"name": "a.b"}}))
    ask(api, lambda client: client.patch_formatstate_status("a.b", {"phase": "Idle", "x": None}))
    assert api.status("a.b") == {"phase": "Idle"}


def test_client_tells_object_and_kind_apart(api: FakeApi) -> None:
    """404 of an object is NotFound; of a kind that is not installed, NotServed."""
    with pytest.raises(kube.NotFound):
        ask(api, get)
    api.installed = False
    with pytest.raises(kube.NotServed, match="not installed"):
        ask(api, get)


def test_client_names_what_rbac_lacks(api: FakeApi) -> None:
    """403 says which verb on which resource; so does the one for the subresource."""
    api.forbidden = {("GET", "storageformats"), ("PATCH", "formatstates")}
    with pytest.raises(kube.Forbidden, match="may not `get storageformats`"):
        ask(api, get)
    with pytest.raises(kube.Forbidden, match="may not `patch formatstates/status`"):
        ask(api, lambda client: client.patch_formatstate_status("a.b", {}))


def test_client_maps_the_rest(api: FakeApi) -> None:
    """401, 409, 422-like and 429 are errors of their own; nobody there is Unreachable."""
    api.apply({"metadata": {"name": "a.b"}}, "formatstates")
    with pytest.raises(kube.AlreadyExists):
        ask(api, lambda client: client.create_formatstate({"metadata": {"name": "a.b"}}))
    api.overloaded = 1
    with pytest.raises(kube.Overloaded) as overloaded:
        ask(api, lambda client: client.patch_formatstate_status("a.b", {}))
    assert overloaded.value.retry_after == 0
    api.tokens = {"good"}
    with pytest.raises(kube.Unauthorized):
        ask(api, get)
    api.down()
    with pytest.raises(kube.Unreachable):
        ask(api, get)


def test_client_without_its_token_file_is_unreachable(api: FakeApi, tmp_path: Path) -> None:
    """A projected token that is not there (yet) is an error of the request, not of the process."""
    with pytest.raises(kube.Unreachable, match="No such file"):
        ask(api, get, token_file=str(tmp_path / "token"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, kube.Rejected), (422, kube.Rejected), (500, kube.Overloaded), (503, kube.Overloaded)],
)
def test_status_codes(status: int, kind: type[kube.ApiError]) -> None:
    """What a repetition may mend is Overloaded; what it may not is Rejected."""
    error = kube._error(status, {"message": "why"}, "patch x", "patch x", 3.0)
    assert type(error) is kind
    assert (error.status, error.retry_after) == (status, 3.0)
    assert "why" in str(error)


# --- credentials ------------------------------------------------------------------------------------------


def test_in_a_cluster(tmp_path: Path) -> None:
    """The environment names the server, the projected directory the token; IPv6 is bracketed."""
    (tmp_path / "token").write_text("one\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    reach = access(ApiServer(token_directory=str(tmp_path)), environ)
    assert reach.url == "https://[fd00::1]:443"
    assert reach.token() == "one"
    (tmp_path / "token").write_text("two\n")
    assert reach.token() == "two"


def test_nowhere() -> None:
    """Outside a cluster the server has to be named."""
    with pytest.raises(NoApiServer, match="--kube-api"):
        access(ApiServer(), {})


def test_kubeconfig(tmp_path: Path) -> None:
    """Server, CA and token of the current context; data becomes files, which ssl needs."""
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [
            {
                "name": "k",
                "cluster": {
                    "server": "https://host:6443/",
                    "certificate-authority-data": base64.b64encode(b"CA").decode(),
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": "secret", "client-key": "key.pem"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    reach = access(ApiServer(kubeconfig=str(path)))
    assert reach.url == "https://host:6443"
    assert reach.token() == "secret"
    assert reach.key_file == str(tmp_path / "key.pem")
    assert Path(reach.ca_file or "").read_bytes() == b"CA"
    Path(reach.ca_file or "").unlink()
    path.write_text("current-context: none")
    with pytest.raises(NoApiServer, match="cannot understand"):
        access(ApiServer(kubeconfig=str(path)))


# --- what is known, and what is said ----------------------------------------------------------------------


def test_an_older_version_that_comes_late_is_passed_over() -> None:
    """A slow answer must not undo what the watch brought; another object of the same name may."""
    changes: list[int] = []
    known = Knowledge("orders", "orders.p", lambda: changes.append(1))
    new = storageformat(metadata__uid="a", metadata__generation=3)
    old = storageformat(metadata__uid="a", metadata__generation=2, spec__target="v1")
    known.saw_storageformat(new)
    known.saw_storageformat(old)
    assert known.storageformat.value is not None
    assert known.storageformat.value.target_name == "v2"
    assert len(changes) == 1
    known.saw_storageformat(
        storageformat(metadata__uid="b", metadata__generation=1, spec__target="v1")
    )
    assert known.storageformat.value.target_name == "v1"


def test_a_storageformat_that_is_not_understood() -> None:
    """It is said what is wrong, and what it says about failures counts."""
    known = Knowledge("orders", "orders.p", lambda: None)
    known.saw_storageformat(storageformat(spec__target="v7", spec__onFailure="StartApp"))
    assert known.storageformat.asked is Asked.INVALID
    assert known.storageformat.on_failure is OnFailure.START_APP
    assert "target" in known.storageformat.detail


def test_a_permit_that_cannot_be_read_permits_nothing() -> None:
    """Nonsense in the spec is no permit, and no crash."""
    known = Knowledge("orders", "orders.p", lambda: None)
    known.saw_formatstate(
        {"metadata": {"name": "orders.p"}, "spec": {"permit": {"expires": "soon"}}}
    )
    assert known.permit.is_known
    assert known.permit.value is None


def test_the_mailbox_holds_the_newest_letter() -> None:
    """Many versions from another thread, one delivery of the last."""

    async def run() -> list[tuple[str, str, Any]]:
        got: list[tuple[str, str, Any]] = []
        box = Mailbox(asyncio.get_running_loop(), lambda *letter: got.append(letter))

        def write() -> None:
            for number in range(1000):
                box.put("formatstates", "a", {"number": number})
            box.put("formatstates", "b", None)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        return got

    assert asyncio.run(run()) == [
        ("formatstates", "a", {"number": 999}),
        ("formatstates", "b", None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"y": None}}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": {"x": 1}}, {"a": 3}, {"a": 3}),
    ],
)
def test_merge_patch(old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    """The smallest patch that makes the new of the old; nothing when they are the same."""
    assert merge_patch(old, new) == patch


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--database", "x.y=/a", "--pod-name", "p"], "without dots"),
        (["--database", "x=a.db", "--pod-name", "p"], "absolute"),
        (["--database", "x=/a/../b", "--pod-name", "p"], "shortest form"),
        (["--database", "x=/a*/b", "--pod-name", "p"], "last part"),
        (["--database", "x", "--pod-name", "p"], "NAME=PATH"),
        (["--database", "x=/a", "--database", "x=/b", "--pod-name", "p"], "one path"),
        (["--database", "x=/a"], "who am I"),
        ([*BASE, "--permit-wait", "-1"], "0 or more"),
        ([*BASE, "--resync", "0"], "more than 0"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and the sentence says what to write instead."""
    with pytest.raises(SystemExit) as ended:
        sidecar_settings(arguments, {})
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_downward_api(tmp_path: Path) -> None:
    """Who the pod is comes from the environment; the annotation from there or from a file that changes."""
    environ = {
        "POD_NAME": "p",
        "POD_UID": "u",
        "POD_NAMESPACE": "n",
        "STORAGEFORMAT_READS": "v1, v2",
    }
    settings = sidecar_settings(["--database", "x=/a"], environ)
    assert (settings.pod_name, settings.pod_uid, settings.namespace) == ("p", "u", "n")
    assert settings.current_reads() == frozenset({"v1", "v2"})
    annotations = tmp_path / "annotations"
    from_file = replace(settings, annotations_file=str(annotations))
    assert from_file.current_reads() == frozenset({"v1", "v2"})
    annotations.write_text('a="b"\nstorageformat.dev/reads="v2,\\"odd\\""\n')
    assert from_file.current_reads() == frozenset({"v2", '"odd"'})
    annotations.write_text('storageformat.dev/reads=""\n')
    assert from_file.current_reads() is None


# --- databases of an argument -----------------------------------------------------------------------------


def test_a_glob_names_databases_only(tmp_path: Path) -> None:
    """No side files, folders or state; a lost database with pending work counts; a literal goes first."""
    for name in ("a.db", "b.db", "own.db", "a.db-wal", "a.txt", ".hidden.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.db").mkdir()
    (tmp_path / ".a.db.storageformat").mkdir()
    (tmp_path / ".lost.db.storageformat" / "work").mkdir(parents=True)
    glob = DatabaseArgument("t", f"{tmp_path}/*.db")
    own = DatabaseArgument("o", f"{tmp_path}/own.db")
    names = [Path(path).name for path in files_of(glob, (own,))]
    assert names == ["a.db", "b.db", "lost.db"]
    assert files_of(own) == (own.path,)
    assert files_of(DatabaseArgument("n", f"{tmp_path}/none/*.db")) == ()


# --- the store's thread -----------------------------------------------------------------------------------


def test_the_store_thread_runs_one_call_after_the_other() -> None:
    """On one thread, results and errors to whoever asked, an abort when it stops."""

    async def run() -> None:
        thread = StoreThread()
        names = await asyncio.gather(
            *(thread.call(lambda _: threading.current_thread().name) for _ in range(5))
        )
        assert set(names) == {"store"}

        def fails(abort: Abort) -> None:
            raise ValueError(abort.requested)

        with pytest.raises(ValueError, match="False"):
            await thread.call(fails)
        begun = threading.Event()

        def waits(abort: Abort) -> bool:
            stop = threading.Event()
            with abort.interrupting(stop.set):
                begun.set()
                return stop.wait(10)

        call = asyncio.create_task(thread.call(waits))
        await asyncio.to_thread(begun.wait, 10)
        thread.stop()
        assert await call is True
        assert thread.join(5)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InUse("x", operation="o", path="p"), FailureKind.TRY_AGAIN),
        (Aborted("x", operation="o", path="p"), FailureKind.TRY_AGAIN),
        (WrongUser("x", operation="o", path="p"), FailureKind.REFUSED),
        (PrimaryUnsound("x", operation="o", path="p"), FailureKind.ATTENTION),
        (ZeroDivisionError(), FailureKind.FAILED),
    ],
)
def test_kinds_of_errors(error: Exception, kind: FailureKind) -> None:
    """What each error promises about the database decides what the gate does."""
    assert kind_of(error) is kind


# --- metrics ----------------------------------------------------------------------------------------------


def scrape(metrics: SidecarMetrics) -> dict[str, Any]:
    text = generate_latest(metrics.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_zeros_exist_before_anything_happens() -> None:
    """Every counter and gauge of a database is there at once; times that never were are absent."""
    metrics = SidecarMetrics(version="1", phases=("idle", "building"))
    metrics.add(DatabaseSeries("orders", "/none"))
    found = scrape(metrics)
    assert {s.value for s in found["storageformat_recoveries"].samples} == {0.0}
    assert len(found["storageformat_recoveries"].samples) == 5
    assert len(found["storageformat_conversions"].samples) == 4
    assert found["storageformat_last_success_timestamp_seconds"].samples == []
    assert found["storageformat_database_size_bytes"].samples[0].value == 0
    assert "storageformat_conversion_duration_seconds_created" not in found
    assert all(family.documentation for family in found.values())


def test_openmetrics_can_be_parsed() -> None:
    """Prometheus asks for OpenMetrics first; the stricter parser reads the same families."""
    metrics = SidecarMetrics(version="1", phases=("idle",))
    metrics.add(DatabaseSeries("orders", "/none"))
    text = openmetrics.generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call] # as it ships
    families = {family.name: family for family in strict_families(text)}  # type: ignore[no-untyped-call] # as it ships
    assert families["storageformat_backups_created"].samples[0].name.endswith("_created_total")
    assert families["storageformat_recoveries"].type == "counter"


def test_a_family_that_fails_costs_only_itself() -> None:
    """An exception while collecting leaves out one family and is counted."""
    metrics = SidecarMetrics(version="1", phases=("idle",))
    series = metrics.add(DatabaseSeries("orders", "/none"))
    series.backups = {"x": None}  # type: ignore[dict-item] # that is the point
    found = scrape(metrics)
    assert "storageformat_backup_size_bytes" not in found
    assert "storageformat_conversions" in found
    errors = scrape(metrics)["storageformat_scrape_errors"].samples[0].value
    assert errors >= 2


def test_totals_never_fall() -> None:
    """A tenant's database that is deleted keeps its place in the sum; formats follow what is there."""
    metrics = SidecarMetrics(version="1", phases=("idle",))
    series = metrics.add(DatabaseSeries("t", "/data/*.db"))
    series.totals = {
        "/data/a.db": {"conversions.succeeded": 2},
        "/data/b.db": {"backups.created": 1},
    }
    series.formats = {FormatInfo("v1", "sqlitedict", "natural", "pickle", "none"): 2}
    assert series.total("conversions.succeeded") == 2
    assert scrape(metrics)["storageformat_database_format_info"].samples[0].value == 2
    series.formats = {}
    assert scrape(metrics)["storageformat_database_format_info"].samples == []


def labelled(found: dict[str, Any], family: str, *labels: str) -> dict[Any, float]:
    """A family's values by these labels."""
    samples = found[f"storageformat_{family}"].samples
    return {tuple(one.labels[label] for label in labels): one.value for one in samples}


def test_what_alerts_ask_for(tmp_path: Path) -> None:
    """Failures by kind, state and reason, backups pinned and not, the volume, the API's last answer, the watch."""
    environ = {RESTARTS_VARIABLE: "3", HANGS_VARIABLE: "1"}
    metrics = SidecarMetrics(version="1", phases=("idle",), environ=environ)
    series = metrics.add(DatabaseSeries("orders", str(tmp_path / "orders.db")))
    before = scrape(metrics)
    kinds = {("try-again",), ("refused",), ("failed",), ("attention",)}
    assert labelled(before, "databases_failing", "kind") == dict.fromkeys(kinds, 0)
    assert {str(kind) for kind in FailureKind} == {kind for (kind,) in kinds}
    assert labelled(before, "backups_kept", "pinned") == {("true",): 0, ("false",): 0}
    for absent in ("state_info", "backup_retain_until_timestamp_seconds"):
        assert labelled(before, absent) == {}
    assert labelled(before, "api_last_answer_timestamp_seconds") == {}
    assert labelled(before, "watch_restarts") == {(): 0}

    def backup(name: str, until: str | None, *, pinned: bool) -> Backup:
        return Backup(name, "/x", 10, "2026-11-23T12:00:00Z", until, pinned=pinned)

    asked = time.monotonic() - 100
    series.failing = {"attention": 2}
    series.state = ("Failed", "PreimageLost")
    series.backups = {
        "a": backup("a", "2026-11-24T12:00:00Z", pinned=False),
        "b": backup("b", "2026-11-23T13:00:00Z", pinned=False),
        "c": backup("c", "2026-11-23T12:30:00Z", pinned=True),
    }
    series.answered = lambda: asked
    series.watches = lambda: 4
    after = scrape(metrics)
    assert labelled(after, "databases_failing", "kind")["attention",] == 2
    assert labelled(after, "state_info", "phase", "reason") == {("Failed", "PreimageLost"): 1}
    assert labelled(after, "backups_kept", "pinned") == {("true",): 1, ("false",): 2}
    until = datetime(2026, 11, 23, 13, tzinfo=UTC).timestamp()
    assert labelled(after, "backup_retain_until_timestamp_seconds") == {(): until}
    (answered,) = labelled(after, "api_last_answer_timestamp_seconds").values()
    assert 100 <= time.time() - answered < 160
    assert labelled(after, "watch_restarts") == {(): 3}
    free = labelled(after, "volume_free_bytes")[()]
    assert 0 < free <= labelled(after, "volume_size_bytes")[()]
    assert labelled(after, "worker_restarts") == {(): 3}
    assert labelled(after, "worker_hangs") == {(): 1}
    assert labelled(after, "scrape_errors") == {(): 0}


def test_a_volume_that_cannot_be_asked_is_left_out() -> None:
    """A directory that is not there has no size, and that is no error of the scrape."""
    metrics = SidecarMetrics(version="1", phases=("idle",), environ={})
    metrics.add(DatabaseSeries("orders", "/not/there/orders.db"))
    found = scrape(metrics)
    assert labelled(found, "volume_free_bytes") == {}
    assert labelled(found, "scrape_errors") == {(): 0}
    assert labelled(found, "worker_restarts") == {(): 0}


def test_documented_protocol_is_json() -> None:
    """The examples in the gate's protocol are what is sent."""
    from format_operator import gate_protocol

    assert json.loads(gate_protocol.hello(("orders",))) == {
        "v": 1,
        "hello": "gate",
        "databases": ["orders"],
    }

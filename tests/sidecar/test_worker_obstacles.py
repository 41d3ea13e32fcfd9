"""What is in the way of a conversion: refusals, other openers, journals, the skew guard, another user."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import format_store
from tests.sidecar.conftest import RECORDS, fill
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, metrics
from tests.sidecar.scenes import (
    V2,
    assert_converted,
    assert_untouched,
    environ,
    phase,
    rolling,
    wanted,
)
from tests.support.databases import leftovers, records_on_disk
from tests.support.openers import kill_writer
from tests.support.requirements import requires

NOBODY = 65534


def test_a_refusal_blocks_until_the_cause_is_gone(
    api: FakeApi, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onFailure: Block. The status says what to do; after a change it is tried again at once, however long the wait."""
    monkeypatch.setenv("WAIT", "3600")
    body = wanted(pod, spec__unmarked=["v2"])
    api.apply(body)
    sidecar = pod.worker(driver="tests.sidecar.driver")
    gate = pod.gate()
    status = phase(api, "Refused")
    assert status["reason"] == "UndeclaredFormat"
    assert status["lastConversion"]["result"] == "refused"
    assert gate.is_running
    assert metrics(pod.port(sidecar))['storageformat_conversions_total{result="refused"}'] == 1
    assert metrics(pod.port(sidecar))["storageformat_gate_open"] == 0
    eventually(lambda: api.watching("storageformats"))
    api.apply(wanted(pod))
    assert gate.ends() == 0
    assert_converted(pod.database)


def test_a_database_in_use_is_tried_again(api: FakeApi, pod: Pod) -> None:
    """Somebody has it open: the gate stays closed and the conversion follows when it is closed."""
    api.apply(wanted(pod))
    with closing(sqlite3.connect(pod.database)) as connection:
        connection.execute("SELECT count(*) FROM unnamed").fetchone()
        pod.worker()
        gate = pod.gate()
        gate.says("gate=closed .*InUse")
        assert_untouched(pod.database)
    assert gate.ends() == 0
    assert_converted(pod.database)


def test_skew_is_blocked(api: FakeApi, pod: Pod) -> None:
    """An app that cannot read the target starts on the format it can read."""
    api.apply(wanted(pod))
    pod.options["--reads"] = "v1"
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert phase(api, "Refused")["reason"] == "SkewBlocked"


def test_an_unreadable_database_keeps_the_gate_closed(api: FakeApi, pod: Pod) -> None:
    """A database that this version of the app cannot read: closed, and the gate's line says why."""
    format_store.convert(pod.database, V2)
    api.apply(wanted(pod, spec__target="v1", spec__rollout={"strategy": "RollingRestart"}))
    pod.options |= {"--reads": "v1", "--permit-wait": "0.2"}
    pod.worker()
    gate = pod.gate()
    gate.says("the app reads v1, the database is in v2")
    assert gate.is_running


# --- what a killed app left -------------------------------------------------------------------------------

UNCOMMITTED = ["PRAGMA cache_size = 1", "BEGIN", "UPDATE unnamed SET value = zeroblob(3000)"]
#: All that was committed is in the log: the file by itself has an empty table.
COMMITTED_TO_THE_LOG = [
    "CREATE TABLE spare AS SELECT rowid AS id, key, value FROM unnamed",
    "DELETE FROM unnamed",
    "PRAGMA journal_mode = WAL",
    "PRAGMA wal_autocheckpoint = 0",
    "INSERT INTO unnamed (rowid, key, value) SELECT id, key, value FROM spare ORDER BY id",
    "DROP TABLE spare",
]


@pytest.fixture(params=["journal", "wal"])
def killed_app(request: pytest.FixtureRequest, pod: Pod) -> str:
    """What the app's end left beside its database; a transaction that was not committed is in it."""
    before = COMMITTED_TO_THE_LOG if request.param == "wal" else []
    kill_writer(pod.database, *before, *UNCOMMITTED)
    assert pod.database.with_name(f"orders.db-{request.param}").stat().st_size > 10_000
    return str(request.param)


def test_after_a_killed_app_the_gate_opens_on_the_old_format(
    api: FakeApi, pod: Pod, killed_app: str
) -> None:
    """No permit, and a skew guard that wants to know the format: it is told, and the app starts on it."""
    pod.options |= {"--permit-wait": "0.2", "--reads": "v1,v2"}
    api.apply(rolling(pod))
    sidecar = pod.worker()
    gate = pod.gate()
    assert gate.ends() == 0, killed_app
    gate.says("gate=open .*starts on v1")
    status = phase(api, "RestartRequired")
    assert (status["reason"], status["currentFormat"]) == ("NoPermit", "v1")
    info = (
        'storageformat_database_format_info{compression="none",engine="sqlitedict",format="v1",'
        'key_encoding="natural",value_codec="pickle"}'
    )
    assert metrics(pod.port(sidecar))[info] == 1
    assert_untouched(pod.database)
    assert records_on_disk(pod.database) == list(RECORDS.items())


def test_after_a_killed_app_an_unreadable_format_keeps_the_gate_closed(
    api: FakeApi, pod: Pod, killed_app: str
) -> None:
    """Settled only to be looked at: an app that cannot read the format does not get to see it."""
    pod.options |= {"--permit-wait": "0.2", "--reads": "v2"}
    api.apply(rolling(pod))
    pod.worker()
    gate = pod.gate()
    gate.says("the app reads v2, the database is in v1")
    assert gate.is_running, killed_app


def test_after_a_killed_app_the_database_is_converted(
    api: FakeApi, pod: Pod, killed_app: str
) -> None:
    """What was committed is there, what was not is not; nothing is left beside the database."""
    api.apply(wanted(pod))
    pod.worker()
    assert pod.gate().ends() == 0, killed_app
    assert_converted(pod.database)
    assert leftovers(pod.database) == []


# --- another user -----------------------------------------------------------------------------------------


@pytest.fixture
def public_pod(api: FakeApi) -> Iterator[Pod]:
    """A pod whose folder every user reaches and writes, as with an fsGroup; the database is root's."""
    with tempfile.TemporaryDirectory() as name:
        made = Pod(Path(name), api.url)
        made.folder.chmod(0o777)
        fill(made.database)
        made.database.chmod(0o666)
        yield made
        made.close()


@requires("root", how="run as root", available=lambda: os.geteuid() == 0)
@pytest.mark.parametrize("on_failure", ["Block", "StartApp"])
def test_another_users_database_is_refused(api: FakeApi, public_pod: Pod, on_failure: str) -> None:
    """The converted file would be ours: WrongUser. Block keeps the gate closed, StartApp opens it."""
    pod = public_pod
    api.apply(wanted(pod, spec__onFailure=on_failure))
    with environ(AS_USER=str(NOBODY)):
        sidecar = pod.worker(driver="tests.sidecar.driver")
    gate = pod.gate()
    status = phase(api, "Refused")
    assert status["reason"] == "WrongUser"
    assert "runAsUser" in status["message"] or str(NOBODY) in status["message"]
    assert status["lastConversion"]["result"] == "refused"
    if on_failure == "StartApp":
        assert gate.ends() == 0
        gate.says("gate=open .*starts on v1")
    else:
        gate.says("gate=closed .*WrongUser")
        assert gate.is_running
    assert metrics(pod.port(sidecar))['storageformat_conversions_total{result="refused"}'] == 1
    assert_untouched(pod.database)
    assert (pod.database.stat().st_uid, pod.database.stat().st_mode & 0o777) == (0, 0o666)

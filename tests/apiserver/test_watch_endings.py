"""kopf's watches end and come back, whatever moment they are hit in."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Final

from controlplane import ControlPlane
from controlplane.client import wait_until
from format_operator.runtime.credentials import Access
from format_operator.runtime.kopf_thread import KopfThread
from format_operator.runtime.log import Log
from tests.apiserver.faulty import Fault, Faulty

#: Whether one watch goes on for ever is decided by the order of a set, so there are many.
KINDS: Final = (
    "configmaps", "endpoints", "limitranges", "persistentvolumeclaims", "pods", "podtemplates",
    "replicationcontrollers", "resourcequotas", "secrets", "serviceaccounts", "services",
)  # fmt: skip


def configure(kopf: Any, _: Any, registry: Any) -> None:
    for kind in KINDS:
        kopf.on.event("", "v1", kind, registry=registry)(lambda **_: None)


def test_a_watch_that_takes_its_end_for_a_pause(
    control_plane: ControlPlane, namespace: str
) -> None:
    """One watch dies of garbage while others wait for the first byte of their answers: kopf cancels their requests and their
    pause at once, and some would go on for ever, so that kopf never ended and the first never came back. All come back."""
    with Faulty(control_plane) as faulty:
        garbage = faulty.fail(Fault.GARBAGE, f"list {KINDS[0]}", times=None)
        silence = faulty.fail(Fault.SILENT, "watch .*", times=None)
        ended = threading.Event()
        watcher = KopfThread(
            "test",
            namespaces=(namespace,),
            access=Access(
                faulty.url,
                ca_file=str(control_plane.ca_file),
                static_token=control_plane.admin_token,
            ),
            configure=configure,
            kinds=KINDS,
            ended=ended.set,
            log=Log(),
        )
        watcher.start()
        watcher.allow(allowed=True)
        try:
            wait_until(ended.is_set, timeout=40, every=0.05, what="kopf has ended")
            assert garbage.met
            assert silence.met
            faulty.heal()
            watcher.allow(allowed=True)
            for kind in KINDS:
                watching = partial(faulty.watching, kind)
                wait_until(watching, timeout=40, every=0.05, what=f"{kind} are watched")
        finally:
            watcher.stop()

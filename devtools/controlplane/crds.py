"""Deleting CRDs without waiting for minutes now and then."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from controlplane.client import ApiError, Client, wait_until

_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_GROUP = "storageformat.dev"


def delete_crds(client: Client, *, timeout: float = 60.0) -> None:
    """Delete our CRDs, and with them their objects; returns when they are gone.

    The API server's finalizer gives up where its cache is behind its own write: it takes the conflict for
    somebody's change and waits to hear of it, but leaves out the only event that comes, its own
    (``crd_finalizer.go``). So it happens when a CRD goes whose storage is not initialized yet, and nothing
    more is done until the informers resync, every five minutes. Any other change of the CRD wakes it.
    """
    names = [
        one["metadata"]["name"] for one in client.list(_PATH) if one["spec"]["group"] == _GROUP
    ]
    for name in names:
        _unless_gone(client.delete, f"{_PATH}/{name}")
    nudges = itertools.count()

    def gone() -> bool:
        left = [name for name in names if client.exists(f"{_PATH}/{name}")]
        number = str(next(nudges))
        body = {"metadata": {"annotations": {"storageformat.dev/nudge": number}}}
        for name in left:
            _unless_gone(client.patch, f"{_PATH}/{name}", body)
        return not left

    wait_until(gone, timeout=timeout, every=0.5, what="the CRDs are gone")


def _unless_gone(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except ApiError as error:
        if error.status not in {404, 409}:  # the next nudge may meet no conflict
            raise

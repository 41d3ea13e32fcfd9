"""Where the certificate comes from, looked at again and again.

``Generated``: the instances of the webhook make it themselves, keep it in a Secret that the chart has made empty, and
write its authority into their configuration. Each of them does all of that, whoever comes first: the Secret and the
configuration are written with the version that was read, so that all agree on one.
``Given``: files that somebody else writes (cert-manager, or a person), mounted from a Secret.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from format_operator.admission import certificates
from format_operator.admission.certificates import BadCertificate, Kept
from format_operator.admission.kube import Api, Conflict, NotFound, RequestFailed
from format_operator.admission.tls import ServerTls
from format_operator.runtime import clock
from format_operator.runtime.log import Log

#: Until then a look that failed, or that somebody else was faster in, is tried again.
_RETRY_SECONDS: Final = 1.0


class Problem(Exception):
    """The certificate cannot be had, or not be relied on; the message says why."""


class Keeper(Protocol):
    """``look`` once; raises Problem."""

    is_trusted: bool

    async def look(self) -> None: ...


class Generated:
    """``settle_seconds``: how long API servers get to learn of a new authority before its certificate is shown."""

    def __init__(
        self,
        api: Api,
        tls: ServerTls,
        log: Log,
        *,
        namespace: str,
        secret: str,
        configuration: str,
        hosts: Sequence[str],
        lifetime: timedelta,
        settle_seconds: float,
    ) -> None:
        self.is_trusted = False
        self._api = api
        self._tls = tls
        self._log = log
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration
        self._hosts = tuple(hosts)
        self._lifetime = lifetime
        self._settle_seconds = settle_seconds
        self._known_since: tuple[bytes, float] | None = None

    async def look(self) -> None:
        """Renew what is due, have it trusted, show it. Raises Problem."""
        try:
            # The configuration first: a bundle that is made of an older Secret than somebody else's is then refused.
            configuration = await self._api.configuration(self._configuration)
            # Whatever goes wrong from here on: what is shown is good as long as it is trusted.
            self.is_trusted = self._is_in(configuration)
            kept = await self._keep()
            await self._trust(configuration, kept)
        except Conflict as error:
            raise Problem(f"another instance was faster: {error}") from error
        except NotFound as error:
            raise Problem(
                f"{error}; it belongs to the release, which `helm upgrade` makes whole"
            ) from error
        except RequestFailed as error:
            raise Problem(str(error)) from error
        pair = certificates.shown(
            kept, self._api.clock.now(), current_is_known=self._is_known(kept)
        )
        if pair is not None and self._tls.use(pair):
            self._log.info("certificate shown", valid_until=pair.not_after.isoformat())
        self.is_trusted = True

    async def _keep(self) -> Kept:
        secret = await self._api.secret(self._namespace, self._secret)
        now = self._api.clock.now()
        kept = certificates.parse(secret.get("data") or {})
        renewed = certificates.renewed(kept, self._hosts, now, self._lifetime)
        if renewed is None:
            return kept
        body = {**secret, "data": certificates.secret_data(renewed)}
        await self._api.replace_secret(self._namespace, self._secret, body)
        current = renewed.current
        assert current is not None  # noqa: S101 # it was made just now
        self._log.info("certificate made", valid_until=current.not_after.isoformat())
        return renewed

    async def _trust(self, configuration: Mapping[str, Any], kept: Kept) -> None:
        wanted = base64.b64encode(certificates.trusted(kept, self._api.clock.now())).decode()
        stale = {
            index: wanted
            for index, webhook in enumerate(configuration.get("webhooks") or ())
            if (webhook.get("clientConfig") or {}).get("caBundle") != wanted
        }
        if stale:
            version = str(configuration["metadata"]["resourceVersion"])
            await self._api.trust(self._configuration, version, stale)
            self._log.info("CA bundle written", configuration=self._configuration)

    def _is_in(self, configuration: Mapping[str, Any]) -> bool:
        """Whether the API server trusts what is shown now."""
        pair = self._tls.pair
        bundles = [
            base64.b64decode((webhook.get("clientConfig") or {}).get("caBundle") or "")
            for webhook in configuration.get("webhooks") or ()
        ]
        return pair is not None and all((pair.authority or b"") in one for one in bundles)

    def _is_known(self, kept: Kept) -> bool:
        """Whether the newest authority has been in the configuration for long enough."""
        authority = (kept.current.authority if kept.current else None) or b""
        now = time.monotonic()
        if self._known_since is None or self._known_since[0] != authority:
            self._known_since = (authority, now)
        return now - self._known_since[1] >= self._settle_seconds


class Given:
    """``tls.crt`` and ``tls.key`` in a directory. Whoever writes them has the API server trust them."""

    def __init__(self, directory: Path, tls: ServerTls, log: Log) -> None:
        self.is_trusted = True
        self._directory = directory
        self._tls = tls
        self._log = log

    async def look(self) -> None:
        """Show what is there now. Raises Problem; what was shown before is shown on."""
        try:
            parts = [
                (self._directory / name).read_bytes()
                for name in (certificates.CERTIFICATE, certificates.KEY)
            ]
            pair = certificates.read(*parts)
            if self._tls.use(pair):
                self._log.info("certificate shown", valid_until=pair.not_after.isoformat())
        except (OSError, BadCertificate) as error:
            raise Problem(f"{self._directory}: {error}") from error
        if not pair.is_valid(clock.now()):
            raise Problem(
                f"{self._directory}: the certificate is valid from {pair.not_before.isoformat()} until "
                f"{pair.not_after.isoformat()}: the API server does not take it"
            )


async def keep(
    keeper: Keeper, log: Log, *, every: float, looked: asyncio.Event, failed: Callable[[], None]
) -> None:
    """Look for ever; a problem is told once, counted each time, and tried again soon."""
    said = ""
    while True:
        try:
            await keeper.look()
            said = ""
        except Problem as problem:
            failed()
            if str(problem) != said:
                said = str(problem)
                log.warning("certificate", problem=said)
        looked.set()
        await asyncio.sleep(min(every, _RETRY_SECONDS) if said else every)

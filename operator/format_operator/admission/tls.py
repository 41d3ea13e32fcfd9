"""The TLS side of the server: a certificate that can be exchanged while it serves."""

from __future__ import annotations

import os
import ssl
from typing import Any

from format_operator.admission.certificates import BadCertificate, Pair


class ServerTls:
    """``context`` is what a server listens with; every handshake gets the pair that was named last.

    A context of ssl cannot be relied on to exchange a certificate for another in one step, so there is a new one for each.
    """

    def __init__(self) -> None:
        self.pair: Pair | None = None
        self.context: ssl.SSLContext | None = None
        self._newest: ssl.SSLContext | None = None

    def use(self, pair: Pair) -> bool:
        """Show that pair from the next handshake on; tells whether it is another one. Raises BadCertificate."""
        if pair == self.pair:
            return False
        self._newest = _context(pair)
        if self.context is None:
            self.context = _context(pair)
            self.context.sni_callback = self._exchange
        self.pair = pair
        return True

    def _exchange(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        connection.context = self._newest


def _context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # ssl reads files only, and a key belongs on no disk.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.certificate + b"\n" + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise BadCertificate(f"OpenSSL does not take it: {error}") from error
    finally:
        os.close(descriptor)
    return context

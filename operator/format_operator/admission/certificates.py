"""Certificates: made, read, and which of them is trusted and shown when. No I/O.

Each serving certificate has an authority of its own, whose key is thrown away when it has signed: nobody can sign
anything with it, and a renewal is always the whole way round, never a shorter one that is taken every ten years.
While the API servers learn of the new authority, the old one stays trusted and its certificate is shown.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Clocks differ: a certificate is of a moment ago.
_EARLIER: Final = timedelta(hours=1)
#: A third of its life is left when it is replaced: a month of three, for whatever goes wrong to be seen and mended.
_RENEWED_AT: Final = 3

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITY: Final = "ca.crt"
PREVIOUS: Final = "previous-"


class BadCertificate(ValueError):
    """It cannot be used; the message says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate (with its chain) and its key as PEM, and who signed it (None: somebody else's business)."""

    certificate: bytes
    key: bytes
    authority: bytes | None
    not_before: datetime
    not_after: datetime

    def is_valid(self, now: datetime) -> bool:
        return self.not_before <= now < self.not_after

    def is_due(self, now: datetime) -> bool:
        """Whether it is time for the next one (of those that ``make`` makes)."""
        life = self.not_after - self.not_before - _EARLIER
        return not self.is_valid(now) or self.not_after - now < life / _RENEWED_AT


@dataclass(frozen=True)
class Kept:
    """What the Secret holds. ``previous`` is what was shown before, and still is for a moment."""

    current: Pair | None = None
    previous: Pair | None = None


def make(hosts: Sequence[str], now: datetime, lifetime: timedelta) -> Pair:
    """A new certificate for these names and addresses, signed by an authority that is made for it."""
    not_before, not_after = now - _EARLIER, now + lifetime
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    number = x509.random_serial_number()
    # The number tells authorities apart: two in one bundle must not look the same.
    issuer = _named(f"storageformat-webhook-{number:x}"[:64])
    usage = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )

    authority = (
        begun(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage | {"key_cert_sign": True}), critical=True)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id)
    certificate = (
        begun(_named(hosts[0][:64]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage | {"digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), critical=False)
        .add_extension(signer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return read(_pem(certificate), private, _pem(authority))


def read(certificate: bytes, key: bytes, authority: bytes | None = None) -> Pair:
    """A pair from PEM. Raises BadCertificate where the two do not belong together, or ``authority`` did not sign it."""
    try:
        found = x509.load_pem_x509_certificates(certificate)[0]
        private = serialization.load_pem_private_key(key, None)
        signer = x509.load_pem_x509_certificate(authority) if authority is not None else None
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"no certificate with a key: {error}") from error
    if private.public_key() != found.public_key():
        raise BadCertificate("the key is another certificate's")
    if signer is not None:
        try:
            found.verify_directly_issued_by(signer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise BadCertificate("the authority did not sign the certificate") from error
    return Pair(certificate, key, authority, found.not_valid_before_utc, found.not_valid_after_utc)


def covers(pair: Pair, hosts: Sequence[str]) -> bool:
    """Whether the certificate is for all of these names and addresses."""
    found = x509.load_pem_x509_certificates(pair.certificate)[0]
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return {_host(one) for one in hosts} <= set(names)


# --- what a Secret holds ---------------------------------------------------------------------------------------


def parse(data: Mapping[str, str]) -> Kept:
    """From the ``data`` of a Secret; what cannot be used is as if it were not there, and is made anew."""
    return Kept(_pair(data, ""), _pair(data, PREVIOUS))


def secret_data(kept: Kept) -> dict[str, str]:
    """The ``data`` of the Secret."""
    found: dict[str, str] = {}
    for prefix, pair in (("", kept.current), (PREVIOUS, kept.previous)):
        if pair is not None:
            parts = {CERTIFICATE: pair.certificate, KEY: pair.key, AUTHORITY: pair.authority or b""}
            found |= {prefix + name: base64.b64encode(one).decode() for name, one in parts.items()}
    return found


def renewed(kept: Kept, hosts: Sequence[str], now: datetime, lifetime: timedelta) -> Kept | None:
    """What the Secret has to hold from now on; None: what it holds."""
    current = kept.current
    if current is not None and not current.is_due(now) and covers(current, hosts):
        return None
    previous = current if current is not None and current.is_valid(now) else kept.previous
    if previous is not None and not previous.is_valid(now):
        previous = None
    return Kept(make(hosts, now, lifetime), previous)


def trusted(kept: Kept, now: datetime) -> bytes:
    """The CA bundle: whoever signed what may be shown, the current one first."""
    pairs = [kept.current, kept.previous]
    return b"".join(
        one.authority
        for one in pairs
        if one is not None and one.authority and (one is kept.current or one.is_valid(now))
    )


def shown(kept: Kept, now: datetime, *, current_is_known: bool) -> Pair | None:
    """Which certificate is shown; ``current_is_known``: the API servers have had time to learn of its authority."""
    previous = kept.previous
    if current_is_known or previous is None or not previous.is_valid(now):
        return kept.current
    return previous


def _pair(data: Mapping[str, str], prefix: str) -> Pair | None:
    try:
        parts = [
            base64.b64decode(data[prefix + name], validate=True)
            for name in (CERTIFICATE, KEY, AUTHORITY)
        ]
        return read(*parts)
    except (KeyError, binascii.Error, BadCertificate):
        return None


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

"""Certificates: made, kept in a Secret, trusted, shown, and exchanged while a server serves."""

from __future__ import annotations

import asyncio
import base64
import itertools
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from format_operator.admission import certificates
from format_operator.admission.certificates import BadCertificate, Kept, Pair
from format_operator.admission.tls import ServerTls

HOSTS = ("hook.system.svc", "127.0.0.1")
NOW = datetime(2026, 11, 27, tzinfo=UTC)
DAY = timedelta(days=1)


def made(at: datetime = NOW, hosts: tuple[str, ...] = HOSTS) -> Pair:
    return certificates.make(hosts, at, 90 * DAY)


def test_a_pair_for_its_hosts() -> None:
    """Valid from a moment ago for its lifetime, for names and addresses, signed by an authority of its own."""
    pair, other = made(), made()
    assert pair.is_valid(NOW)
    assert pair.not_after == NOW + 90 * DAY
    assert pair.not_before < NOW
    assert certificates.covers(pair, HOSTS)
    assert not certificates.covers(pair, (*HOSTS, "other.system.svc"))
    assert pair.authority != other.authority
    assert certificates.read(pair.certificate, pair.key, pair.authority) == pair


def test_what_does_not_belong_together() -> None:
    """A key, or an authority, of another certificate is told; so is what is no certificate."""
    one, other = made(), made()
    with pytest.raises(BadCertificate, match="the key is another certificate's"):
        certificates.read(one.certificate, other.key)
    with pytest.raises(BadCertificate, match="the authority did not sign"):
        certificates.read(one.certificate, one.key, other.authority)
    for certificate, key in ((b"", one.key), (one.certificate, b"x"), (b"\xff", b"\xff")):
        with pytest.raises(BadCertificate, match="no certificate with a key"):
            certificates.read(certificate, key)


def test_a_secret_and_back() -> None:
    """What a Secret holds is read as it was written; what is missing or broken in it is not there."""
    kept = Kept(made(), made())
    data = certificates.secret_data(kept)
    assert certificates.parse(data) == kept
    assert certificates.parse({}) == Kept()
    for name, value in itertools.product(("tls.crt", "tls.key", "ca.crt"), ("", "%", "eA==")):
        assert certificates.parse(data | {name: value}) == Kept(None, kept.previous)
    assert certificates.parse(data | {"tls.key": data["previous-tls.key"]}).current is None


def test_when_there_is_another_one() -> None:
    """When there is none, when a third of its life is left, when it is of the future, or for other hosts."""
    life = 90 * DAY
    pair = made()
    assert certificates.renewed(Kept(pair), HOSTS, NOW + 59 * DAY, life) is None
    for now, hosts, previous in (
        (NOW + 61 * DAY, HOSTS, pair),
        (NOW + 91 * DAY, HOSTS, None),
        (NOW - 2 * DAY, HOSTS, None),
        (NOW, (*HOSTS, "other"), pair),
    ):
        kept = certificates.renewed(Kept(pair), hosts, now, life)
        assert kept is not None
        assert kept.current is not None
        assert kept.current.is_valid(now)
        assert certificates.covers(kept.current, hosts)
        assert kept.previous == previous
    short = timedelta(seconds=30)
    fresh = Kept(certificates.make(HOSTS, NOW, short))
    assert certificates.renewed(fresh, HOSTS, NOW + timedelta(seconds=19), short) is None
    assert certificates.renewed(fresh, HOSTS, NOW + timedelta(seconds=21), short) is not None
    first = certificates.renewed(Kept(), HOSTS, NOW, life)
    assert first is not None
    assert first.previous is None


def test_a_broken_one_is_replaced_and_the_one_before_goes_on() -> None:
    """Where the newest cannot be used, the certificate before it stays trusted as long as it is valid."""
    before = made()
    kept = certificates.renewed(Kept(None, before), HOSTS, NOW, 90 * DAY)
    assert kept is not None
    assert kept.previous == before
    late = certificates.renewed(Kept(None, before), HOSTS, NOW + 91 * DAY, 90 * DAY)
    assert late is not None
    assert late.previous is None


def test_whom_the_api_server_trusts() -> None:
    """The newest authority and, until it ends, the one before."""
    old, new = made(NOW - 70 * DAY), made()
    assert old.authority is not None
    assert new.authority is not None
    kept = Kept(new, old)
    assert certificates.trusted(kept, NOW) == new.authority + old.authority
    assert certificates.trusted(kept, NOW + 21 * DAY) == new.authority
    assert certificates.trusted(Kept(new), NOW) == new.authority


def test_which_is_shown() -> None:
    """The new one when the API servers know its authority; at once where the old one has ended, or there was none."""
    old, new = made(NOW - 70 * DAY), made()
    kept = Kept(new, old)
    assert certificates.shown(kept, NOW, current_is_known=False) == old
    assert certificates.shown(kept, NOW, current_is_known=True) == new
    assert certificates.shown(kept, NOW + 21 * DAY, current_is_known=False) == new
    assert certificates.shown(Kept(new), NOW, current_is_known=False) == new
    assert certificates.shown(Kept(), NOW, current_is_known=False) is None


def usable() -> Pair:
    return certificates.make(HOSTS, datetime.now(UTC), DAY)


def client(pair: Pair) -> ssl.SSLContext:
    """Trusts who signed it."""
    return ssl.create_default_context(cadata=(pair.authority or b"").decode())


async def shown_to(port: int, trust: ssl.SSLContext, name: str) -> tuple[bytes, str]:
    """The certificate that a handshake gets, and the version of TLS."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname=name
    )
    tls = writer.get_extra_info("ssl_object")
    found = tls.getpeercert(binary_form=True), tls.version()
    writer.close()
    await writer.wait_closed()
    del reader
    return found


@pytest.mark.parametrize("name", HOSTS)
def test_a_certificate_is_exchanged_while_it_is_served(name: str) -> None:
    """Every handshake gets the newest one, whether it names a host or an address."""

    async def story() -> None:
        tls = ServerTls()
        first, second = usable(), usable()
        assert tls.use(first)
        assert not tls.use(first)
        server = await asyncio.start_server(
            lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls.context
        )
        port = server.sockets[0].getsockname()[1]
        one, version = await shown_to(port, client(first), name)
        assert version == "TLSv1.3"
        tls.use(second)
        two, _ = await shown_to(port, client(second), name)
        assert one != two
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown_to(port, client(first), name)
        server.close()
        await server.wait_closed()

    asyncio.run(story())


def test_old_tls_is_refused() -> None:
    """Nothing below TLS 1.2."""
    tls = ServerTls()
    tls.use(usable())
    assert tls.context is not None
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_key_that_openssl_does_not_take() -> None:
    """It is told, and what was shown before is shown on."""
    tls = ServerTls()
    good = usable()
    tls.use(good)
    with pytest.raises(BadCertificate, match="OpenSSL does not take it"):
        tls.use(Pair(good.certificate, usable().key, None, good.not_before, good.not_after))
    assert tls.pair == good


def test_a_secrets_data_is_base64() -> None:
    """As the API has it."""
    data = certificates.secret_data(Kept(made()))
    assert set(data) == {"tls.crt", "tls.key", "ca.crt"}
    assert base64.b64decode(data["tls.key"]).startswith(b"-----BEGIN PRIVATE KEY-----")

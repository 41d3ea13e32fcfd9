"""What becomes of a test that needs what the machine does not have."""

from __future__ import annotations

import pytest

from tests.support.requirements import REQUIRE_ALL, require_now, requires


def test_missing_is_skipped_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Usually the test is skipped, and the reason says how to enable it."""
    monkeypatch.delenv(REQUIRE_ALL, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"needs no-such-tool.*apt-get install it"):
        require_now("no-such-tool", how="apt-get install it")


def test_missing_fails_where_all_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is required, the same test fails."""
    monkeypatch.setenv(REQUIRE_ALL, "1")
    with pytest.raises(pytest.fail.Exception, match=r"needs leases.*a local filesystem"):
        require_now("leases", how="a local filesystem", available=lambda: False)


@requires("sh", how="a shell")
@requires("the sun", how="wait until morning", available=lambda: True)
def test_present_runs() -> None:
    """A test whose needs are met runs."""
    require_now("sh", how="a shell")

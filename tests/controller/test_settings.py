"""The controller's arguments: what makes no sense is said at once, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from format_operator.controller.settings import controller_settings
from format_operator.settings import DEFAULT_METRICS_PORT

POD = {"POD_NAME": "controller-0", "POD_NAMESPACE": "system"}


def test_in_a_pod_nothing_has_to_be_said() -> None:
    """Identity and the Lease's place come from the Downward API; the whole cluster is looked after."""
    settings = controller_settings([], POD)
    assert (settings.identity, settings.lease_namespace) == ("controller-0", "system")
    assert settings.namespaces == ()
    assert settings.metrics_port == DEFAULT_METRICS_PORT


def test_the_namespace_is_taken_from_the_token_where_nobody_says_it(tmp_path: Path) -> None:
    """As any client in a cluster does."""
    (tmp_path / "namespace").write_text("elsewhere\n")
    settings = controller_settings(["--token-dir", str(tmp_path)], {})
    assert settings.lease_namespace == "elsewhere"


def test_without_a_lease() -> None:
    """Said in so many words, never by leaving something out."""
    assert controller_settings(["--no-lease"], {}).lease_namespace is None


def test_a_namespace_that_is_named_twice_is_watched_once() -> None:
    """Two watches of one namespace would bring everything twice."""
    words = ["--watch-namespace", "a", "--watch-namespace", "b", "--watch-namespace", "a"]
    assert controller_settings(words, POD).namespaces == ("a", "b")


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        ([], {}, "--lease-namespace: where is the Lease?"),
        (["--permit-seconds", "60"], POD, "at least 600"),
        (["--lease-seconds", "1"], POD, "at least 3"),
        (["--resync", "0"], POD, "more than 0"),
        (["--metrics-port", "x"], POD, "invalid int value"),
        (["--wach-namespace", "a"], POD, "unrecognized arguments"),
    ],
)
def test_nonsense(
    words: list[str],
    environment: dict[str, str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, and a line that names the option."""
    with pytest.raises(SystemExit) as ended:
        controller_settings([*words, "--token-dir", "/nowhere"], environment)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err

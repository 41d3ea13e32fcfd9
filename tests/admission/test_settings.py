"""What the webhook is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from format_operator.admission.settings import GeneratedCertificates, webhook_settings
from tests.admission.pods import injected, pod

IMAGE = ("--image", "r/i:1")
MADE = ("--certificate-secret", "s", "--configuration", "c", "--host", "h.n.svc", "--host", "h.n")


def test_a_certificate_that_is_made() -> None:
    """Secret, configuration and hosts; the namespace is the pod's own."""
    settings = webhook_settings([*IMAGE, *MADE], {"POD_NAMESPACE": "system"})
    assert settings.certificates == GeneratedCertificates("system", "s", "c", ("h.n.svc", "h.n"))
    assert settings.defaults.requests == {"cpu": "10m", "memory": "100Mi"}


def test_what_pods_get() -> None:
    """Requests replace the usual ones; the API server's address for a mesh is the environment's unless it is said."""
    options = [*IMAGE, "--certificate-dir", "/c", "--mesh", "istio", "--request", "cpu=5m"]
    settings = webhook_settings(options, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert settings.certificates == Path("/c")
    assert settings.defaults.requests == {"cpu": "5m"}
    assert settings.defaults.api_addresses == ("10.96.0.1/32",)
    settings = webhook_settings([*options, "--mesh-address", "fd00::1"], {})
    assert settings.defaults.api_addresses == ("fd00::1/128",)


def test_what_pods_get_writes_as_the_webhook_does() -> None:
    """One word for all logs of an installation: sidecar and gate."""
    settings = webhook_settings([*IMAGE, "--certificate-dir", "/c", "--log-format", "json"], {})
    for one in injected(pod(), settings.defaults)["spec"]["initContainers"]:
        assert "--log-format json" in " ".join(one["args"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (MADE, "the following arguments are required: --image"),
        (IMAGE, "which certificate?"),
        ((*IMAGE, *MADE[:4]), "which certificate?"),
        ((*IMAGE, *MADE), "--certificate-namespace: set it"),
        ((*IMAGE, *MADE, "--certificate-dir", "/c"), "either there or made"),
        (
            (*IMAGE, *MADE, "--certificate-namespace", "n", "--certificate-lifetime", "1"),
            "--certificate-lifetime: at least 10",
        ),
        (("--image", "no image", "--certificate-dir", "/c"), "--image: 'no image' is no image"),
        ((*IMAGE, "--certificate-dir", "/c", "--request", "cpu"), "--request cpu: write RESOURCE"),
        ((*IMAGE, "--certificate-dir", "/c", "--limit", "cpu=x"), "--limits: cpu: 'x' is no"),
        ((*IMAGE, "--certificate-dir", "/c", "--mesh", "istio"), "--mesh-address: where do pods"),
        ((*IMAGE, "--certificate-dir", "/c", "--drain", "-1"), "--drain: seconds, 0 or more"),
        ((*IMAGE, "--certificate-dir", "/c", "--sidecar-arg=--nothing"), "unrecognized arguments"),
    ],
)
def test_what_makes_no_sense(
    options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told before anything starts, with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        webhook_settings(list(options), {})
    assert says in capsys.readouterr().err

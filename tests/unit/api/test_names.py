"""Names that the roles and the admission policy must agree on."""

from __future__ import annotations

import pytest

from format_operator.api.names import formatstate_name, parse_reads


def test_a_formatstate_is_named_after_both() -> None:
    """The StorageFormat's name, a dot, the pod's name with whatever dots it has."""
    assert formatstate_name("orders", "web.blue.0") == "orders.web.blue.0"


@pytest.mark.parametrize(
    ("storageformat", "pod", "says"),
    [
        ("", "orders-0", "needs the name"),
        ("orders", "", "needs the name"),
        ("or.ders", "orders-0", "has a dot"),
        ("o" * 63, "p" * 190, "longer than 253"),
    ],
)
def test_names_that_cannot_be(storageformat: str, pod: str, says: str) -> None:
    """What would be ambiguous or too long for Kubernetes is refused."""
    with pytest.raises(ValueError, match=says):
        formatstate_name(storageformat, pod)


def test_the_longest_name_fits() -> None:
    """The limit on a StorageFormat's name leaves 189 characters for the pod's."""
    assert len(formatstate_name("o" * 63, "p" * 189)) == 253


@pytest.mark.parametrize(
    ("annotation", "names"),
    [
        (None, None),
        ("", None),
        (" , ", None),
        ("v1", {"v1"}),
        ("v1, v2,v1", {"v1", "v2"}),
    ],
)
def test_what_an_app_reads(annotation: str | None, names: set[str] | None) -> None:
    """The annotation lists names; absent or empty it says nothing."""
    assert parse_reads(annotation) == names

"""Which labels a ``metav1.LabelSelector`` selects. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from format_operator.api.models import LabelSelector


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether ``metav1.LabelSelector`` selects these labels."""
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    for one in selector.match_expressions:
        value = labels.get(one.key)
        holds = {
            "In": value is not None and value in one.values,
            # As the API server has it: what has no such label is not in any set of values either.
            "NotIn": value is None or value not in one.values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[one.operator]
        if not holds:
            return False
    return True

"""Keys as they are, in a column that sorts them by Oxia's first order: read, never written.

Before it had an encoding, Oxia sorted plain keys by a comparison of its own (``common/compare/
compare_with_slash.go``). In SQLite that is a column declared ``TEXT COLLATE slash_span``, whose collation the
application registers.
"""

from __future__ import annotations

from format_store.keys.natural import Natural

#: The collation's name in the column's declaration.
SLASH_SPAN = "slash_span"


def compare_with_slash(one: str, other: str) -> int:
    """Below, at or above zero, as Oxia's ``CompareWithSlash`` sorts the two keys' UTF-8.

    Span by span, a span being what ends with "/". What comes after the last "/" sorts before every span: so
    the children of a directory lie before its subdirectories. Code points sort as their UTF-8 does.
    """
    while one and other:
        left, slash, one_rest = one.partition("/")
        right, other_slash, other_rest = other.partition("/")
        if slash != other_slash:
            return 1 if slash else -1
        if left != right:
            return -1 if left < right else 1
        one, other = one_rest, other_rest
    return len(one) - len(other)


class OldCompareHierarchical(Natural):
    """Natural keys under the collation ``slash_span``. A source only: see ``ReadOnlyKeyEncoding``.

    Rows are read in the order of their rowids and never by the key's index, so that nothing depends on whether
    the application's comparison was this one. No range can be asked for: ``range_of_children`` holds
    everything, because a bound would be compared under the column's collation.
    """

    name = "old-compare-hierarchical"
    collation = SLASH_SPAN
    use_instead = ("hierarchical", "natural")

    def range_of_children(self, path: str) -> tuple[str | bytes, str | bytes]:
        super().range_of_children(path)
        return "", b""

"""Named places where a test makes the process crash, fail or wait.

A ``Failpoints`` is handed in as an argument (Oxia's ``NewKVWithTrap`` does the same): there is no global
registry, no environment variable and no way to reach it from the CLI. Every call stands under
``if __debug__:``, which ``python -O`` compiles away together with the names; ``tests/unit/test_failpoints.py``
reads the optimised bytecode and finds none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Failpoints:
    """Maps the name of a place to what happens there; without an entry nothing does.

    ``trace`` (if given) is called with every name that is passed, which is how a test learns the places.
    """

    def __init__(
        self,
        actions: Mapping[str, Callable[[], None]] | None = None,
        *,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self._actions = dict(actions or {})
        self._trace = trace

    def hit(self, name: str) -> None:
        if self._trace is not None:
            self._trace(name)
        action = self._actions.get(name)
        if action is not None:
            action()


#: Production's value: no place does anything.
NONE = Failpoints()

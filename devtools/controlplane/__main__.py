"""``python -m controlplane build [cluster]``: have the binaries ready before anything waits for them."""

from __future__ import annotations

import sys

from controlplane.binaries import CLUSTER, CONTROLPLANE, Binaries, BinariesUnavailable


def main(arguments: list[str]) -> int:
    if arguments not in (["build"], ["build", "cluster"]):
        print("usage: python -m controlplane build [cluster]", file=sys.stderr)
        return 2
    try:
        binaries = Binaries.locate()
        for name in CLUSTER if arguments[1:] else CONTROLPLANE:
            print(binaries.path(name))
    except BinariesUnavailable as error:
        print(f"controlplane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

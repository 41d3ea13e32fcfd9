"""``python -m controlplane build``: have the binaries ready before anything waits for them."""

from __future__ import annotations

import sys

from controlplane.binaries import Binaries, BinariesUnavailable


def main(arguments: list[str]) -> int:
    if arguments != ["build"]:
        print("usage: python -m controlplane build", file=sys.stderr)
        return 2
    try:
        binaries = Binaries.locate()
        for name in ("etcd", "kube-apiserver", "kube-controller-manager", "pki"):
            print(binaries.path(name))
    except BinariesUnavailable as error:
        print(f"controlplane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m cluster``: a cluster for a person, and everything that tests need made beforehand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster import folders, images, reproducible
from cluster.cluster import Cluster
from cluster.errors import ClusterError, ClusterUnavailable
from cluster.sandbox import Sandbox
from controlplane import ApiError, BinariesUnavailable, find_kubectl

_DEFAULT = "mine"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in {
        "up": "start a cluster in the background, with the image of this checkout",
        "down": "end a cluster and remove its traces",
        "load": "build the image of this checkout anew and load it into a cluster",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("name", nargs="?", default=_DEFAULT, help=f"default: {_DEFAULT}")
    volume = commands.add_parser("volume", help="make a volume for a claim")
    volume.add_argument("namespace")
    volume.add_argument("claim", help="of a StatefulSet: TEMPLATE-SET-0")
    volume.add_argument("--uid", type=int, required=True, help="the user that it shall belong to")
    volume.add_argument("--name", default=_DEFAULT, help=f"of the cluster; default: {_DEFAULT}")
    commands.add_parser("status", help="list the clusters")
    commands.add_parser("images", help="build the images, if that has to be")
    commands.add_parser("reproducible", help="build the image twice from nothing, and compare")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "up":
                _up(options.name)
            case "down":
                Cluster.existing(options.name).down()
            case "load":
                Cluster.existing(options.name).load_image(images.product())
            case "volume":
                cluster = Cluster.existing(options.name)
                print(cluster.volume(options.namespace, options.claim, uid=options.uid).path)
            case "status":
                _status()
            case "reproducible":
                return reproducible.main()
            case _:
                print(images.pause(), images.product(), sep="\n")
    except (ApiError, BinariesUnavailable, ClusterError, ClusterUnavailable) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _up(name: str) -> None:
    cluster = Cluster.up(name, [images.pause(), images.product()], outlive=True)
    helm, kubectl = cluster.binaries.path("helm"), find_kubectl()
    print(f"""The cluster is up. Use it with

    export KUBECONFIG={cluster.kubeconfig}
    export PATH=$PATH:{_search_path(helm, kubectl)}
    kubectl get nodes

Our image is in it as {images.PRODUCT} (imagePullPolicy: Never); no other can be pulled.
Claims get no volume by themselves; this makes one for the claim `data` of the pod orders-0:

    PYTHONPATH=devtools python -m cluster volume NAMESPACE data-orders-0 --uid UID

Logs are in {cluster.sandbox.logs}. It ends with `make cluster-down`.""")


def _search_path(*programs: Path) -> str:
    return ":".join(dict.fromkeys(str(program.parent) for program in programs))


def _status() -> None:
    for folder in sorted(path for path in folders.clusters().glob("*") if path.is_dir()):
        alive = Sandbox(folder).holder is not None
        print(f"{folder.name}\t{'up' if alive else 'dead, goes with the next one'}\t{folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

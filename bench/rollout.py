"""A rollout on a real cluster: how long it takes beside the bare conversions, and how often the API is asked.

    bench/rollout.py [--records N] [--replicas N] [--json FILE]

Root, and what `make cluster` needs. Prints a table; the figures go to ``build/rollout.json``.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster import Cluster, images
from tests.cluster.operator import SYSTEM, Operator
from tests.cluster.shop import Shop, eventually

_NAMESPACE = "bench"


def run(records: int, replicas: int) -> dict[str, Any]:
    began = time.monotonic()
    with Cluster.started(f"bench-{os.getpid()}", [images.pause(), images.product()]) as cluster:
        up = time.monotonic() - began
        operator = Operator(cluster)
        operator.install()
        cluster.create_namespace(_NAMESPACE)
        shop = Shop(cluster, _NAMESPACE, images.PRODUCT, replicas=replicas)
        shop.open(seed=records)
        eventually(
            lambda: all(shop.summary(one)["count"] == records for one in range(replicas)), "filled"
        )
        figures = {
            "cluster_up_seconds": up,
            "there": _convert(shop, "v2"),
            "back": _convert(shop, "v1"),
            "controller_rss_bytes": _memory(cluster, operator),
        }
    return {"records": records, "replicas": replicas, **figures}


def _convert(shop: Shop, target: str) -> dict[str, Any]:
    seen = len(shop.cluster.requests())
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    began = time.monotonic()
    if target == "v2":
        shop.apply(shop.storage_format())
    else:
        shop.patch({"target": target})
    shop.wait_until_ready(timeout=1800)
    seconds = time.monotonic() - began
    ended = [shop.state(ordinal)["lastConversion"] for ordinal in range(shop.replicas)]
    assert all(one["at"] >= since for one in ended)
    return {
        "seconds": seconds,
        "conversions_seconds": [one["durationSeconds"] for one in ended],
        "bytes_before": [one["bytesBefore"] for one in ended],
        "requests": _requests(shop.cluster.requests()[seen:], shop.replicas),
    }


def _requests(entries: list[dict[str, Any]], replicas: int) -> dict[str, float]:
    """Per pod, by who asked and what for. A watch is one request, however long it lasts."""
    counts: collections.Counter[str] = collections.Counter()
    ids: set[str] = set()
    for entry in entries:
        if entry["auditID"] in ids:
            continue
        ids.add(entry["auditID"])
        user, verb = entry["user"]["username"], entry["verb"]
        resource = (entry.get("objectRef") or {}).get("resource", "discovery")
        if user.startswith(f"system:serviceaccount:{SYSTEM}:"):
            if resource == "leases" or verb in {"list", "watch"}:
                continue  # its own life, not the rollout's
            who = "controller"
        elif user.startswith(f"system:serviceaccount:{_NAMESPACE}:"):
            who = "sidecar"
        else:
            continue
        setup = who == "sidecar" and (verb in {"list", "watch"} or resource == "discovery")
        counts[f"{who}: {'watch set-up' if setup else f'{verb} {resource}'}"] += 1
    return {what: count / replicas for what, count in sorted(counts.items())}


def _memory(cluster: Cluster, operator: Operator) -> float:
    (name,) = operator.pods()
    address = (cluster.pod(SYSTEM, name) or {})["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:9865/metrics", timeout=10) as answer:
        text = answer.read().decode()
    line = next(one for one in text.splitlines() if one.startswith("process_resident_memory_bytes"))
    return float(line.split()[1])


def table(figures: dict[str, Any]) -> str:
    first = (
        f"{figures['replicas']} pods, {figures['records']:,} records each; "
        f"cluster up in {figures['cluster_up_seconds']:.0f} s; "
        f"controller {figures['controller_rss_bytes'] / 2**20:.0f} MiB"
    )
    rows = [first]
    for name in ("there", "back"):
        one = figures[name]
        bare = sum(one["conversions_seconds"])
        size = sum(one["bytes_before"]) / len(one["bytes_before"]) / 1e6
        rows.append(
            f"{name}: {size:.0f} MB each, apply → Ready {one['seconds']:.1f} s, conversions {bare:.1f} s, "
            f"ratio {one['seconds'] / bare:.2f}"
        )
        rows += [f"    {count:5.2f} {what}" for what, count in one["requests"].items()]
        ours = sum(count for what, count in one["requests"].items() if "set-up" not in what)
        rows.append(f"    {ours:5.2f} in all per pod and conversion, without the watch's set-up")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000, help="a kilobyte each")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/rollout.json"))
    arguments = parser.parse_args()
    figures = run(arguments.records, arguments.replicas)
    print(table(figures))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"figures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

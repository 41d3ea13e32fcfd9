"""How long a conversion takes beside the loop that it replaces, and how much memory.

The baseline is what people write by hand with plain sqlitedict, without verification, backup or fsync:

    for key, value in old.items():
        new[encode(key)] = value
    new.commit()

Each measurement runs in a process of its own; ratios are of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = {
    "keys": {"keyEncoding": "hierarchical", "valueCodec": "pickle"},
    "values": {"keyEncoding": "natural", "valueCodec": "msgpack"},
    "keys and values": {"keyEncoding": "hierarchical", "valueCodec": "msgpack"},
}


def fill(path: Path, count: int) -> None:
    """Records of about 200 bytes, pickled as sqlitedict does; written by sqlite3, which is faster."""
    import pickle
    import sqlite3
    from contextlib import closing

    def rows() -> Any:
        for number in range(count):
            key = f"/data/{number % 997:03d}/{number // 997 % 97:02d}/record-{number:08d}"
            value = {
                "id": number,
                "name": f"name-{number:012d}",
                "price": number / 8,
                "tags": ["a", "b", "c"],
                "note": "x" * 80,
            }
            yield key, pickle.dumps(value, protocol=5)

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows())


def loop(path: Path, parameters: dict[str, str]) -> None:
    """The baseline."""
    import msgpack
    from sqlitedict import SqliteDict

    from format_store.keys import get

    encode_key = get(parameters["keyEncoding"]).encode
    options: dict[str, Any] = {}
    if parameters["valueCodec"] == "msgpack":
        options = {"encode": msgpack.packb, "decode": msgpack.unpackb}
    with (
        SqliteDict(str(path), flag="r") as old,
        SqliteDict(str(path) + ".new", encode_key=encode_key, **options) as new,
    ):
        for key, value in old.items():
            new[key] = value
        new.commit()


def ours(path: Path, parameters: dict[str, str]) -> None:
    from format_store import Format, convert

    result = convert(path, Format.from_spec({"sqlitedict": parameters}))
    assert str(result.outcome) == "converted"


def measure(what: str, path: Path, parameters: dict[str, str]) -> dict[str, float]:
    """Seconds and peak resident memory (bytes) of one run, in a child of its own."""
    started = time.perf_counter()
    code = (
        f"import sys; sys.path[:0] = {[os.fspath(Path(__file__).parent)]!r}\n"
        "import conversion, json, pathlib, resource\n"
        f"conversion.{what}(pathlib.Path({os.fspath(path)!r}), {parameters!r})\n"
        "print(json.dumps([resource.getrusage(w).ru_maxrss * 1024"
        " for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    own, child = json.loads(done.stdout)
    return {
        "seconds": time.perf_counter() - started,
        "peak_rss_bytes": own,
        "peak_rss_of_a_worker_bytes": child,
    }


def copied(source: Path, directory: Path) -> Path:
    target = directory / "orders.db"
    shutil.copy(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return target


def run(count: int) -> dict[str, Any]:
    results: dict[str, Any] = {"records": count}
    with tempfile.TemporaryDirectory(prefix="storageformat-bench-") as name:
        directory = Path(name)
        source = directory / "source.db"
        fill(source, count)
        results["file_bytes"] = source.stat().st_size
        for case, parameters in CASES.items():
            found: dict[str, Any] = {}
            for what in ("ours", "loop"):
                work = directory / what
                work.mkdir()
                path = copied(source, work)
                found[what] = measure(what, path, parameters)
                found[what]["result_bytes"] = (
                    path.stat().st_size if what == "ours" else Path(f"{path}.new").stat().st_size
                )
                shutil.rmtree(work)
            found["times_faster"] = found["loop"]["seconds"] / found["ours"]["seconds"]
            results[case] = found
    return results


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['records']:,} records, {results['file_bytes'] / 1e6:,.0f} MB",
        f"{'':<16}{'ours':>9}{'loop':>9}{'faster':>9}{'peak RSS':>11}{'a child ≤':>11}",
    ]
    for case in CASES:
        found = results[case]
        lines.append(
            f"{case:<16}{found['ours']['seconds']:>7.1f} s{found['loop']['seconds']:>7.1f} s"
            f"{found['times_faster']:>7.1f} x{found['ours']['peak_rss_bytes'] / 2**20:>7.0f} MiB"
            f"{found['ours']['peak_rss_of_a_worker_bytes'] / 2**20:>7.0f} MiB"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    results = run(arguments.records)
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

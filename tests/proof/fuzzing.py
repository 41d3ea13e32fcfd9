"""Coverage-guided fuzzing of the parsers of what others wrote; ``fuzz_targets`` has them and what must hold.

    python -m tests.proof.fuzzing NAME -runs=N | -max_total_time=SECONDS

atheris (libFuzzer) looks at which branches an input takes and goes on from those that take new ones. The seed is fixed,
and the same number of runs therefore does the same. What it finds is printed, and is left as a file to make it again with.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.proof.report import Report

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = ("marker", "manifest", "keys", "pickle", "values", "spec", "object")
#: A hostile pickle may ask for any amount; it is a MemoryError here, as it is in a worker.
_ADDRESS_SPACE: Final = 1 << 30
_HANGS_SECONDS: Final = 10


def available() -> bool:
    return find_spec("atheris") is not None


def play(name: str, how: str) -> tuple[int, str]:
    """How many inputs were tried, and what was found, in libFuzzer's words."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.proof.fuzzing", name, how, "-seed=1", "-max_len=2048", "-rss_limit_mb=0", "-print_final_stats=1",
                f"-timeout={_HANGS_SECONDS}", f"-artifact_prefix={folder}/", f"{folder}/corpus",
            ],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}:{ROOT / 'store'}"},
            capture_output=True,
            check=False,
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        tried = re.search(r"stat::number_of_executed_units: *(\d+)", said)
        if done.returncode == 0 and tried:
            return int(tried[1]), ""
        left = [repr(file.read_bytes()) for file in Path(folder).glob("*-*") if file.is_file()]
    return int(tried[1]) if tried else 0, f"{' '.join(left)}\n{said[-4000:]}"


def long(report: Report) -> None:
    """A minute for each parser."""
    for name in NAMES:
        begun = time.monotonic()
        tried, found = play(name, "-max_total_time=60")
        if found:
            report.progress(found)
        report.add("fuzzing", name, tried, int(bool(found)), time.monotonic() - begun)


def main() -> None:
    import atheris

    _, name, *options = sys.argv
    corpus = Path(options[-1])
    with atheris.instrument_imports(
        include=["format_store", "format_operator", "tests.proof.fuzz_targets"]
    ):
        from tests.proof import fuzz_targets
    target, seeds = fuzz_targets.TARGETS[name]
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    for seed in seeds:
        target(seed)  # what is loaded on first use is loaded now
    fuzz_targets.watch()
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, resource.RLIM_INFINITY))
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

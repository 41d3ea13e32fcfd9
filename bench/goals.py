"""The goals of a conversion's speed as ratios of one run, and a table and a plot of where they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """``at_least``: the measured value has to reach the goal; otherwise it may not exceed it."""

    name: str
    measured: float
    goal: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def goals(results: dict[str, Any], large: dict[str, Any] | None) -> list[Goal]:
    """From what ``conversion.run`` and ``conversion.large`` have found."""
    cases, baselines = results["cases"], results["baselines"]
    keys = cases["keys"]["seconds"]
    vacuum = baselines["VACUUM INTO"]["seconds"]
    phases = cases["keys"]["phases"]
    cores = len(os.sched_getaffinity(0))
    unavoidable = sum(results["unavoidable"].values()) * results["records"] / cores
    found = [
        Goal("keys: faster than the sqlitedict loop", results["loops"]["keys"]["seconds"] / keys, 12, "x", at_least=True),
        Goal("keys ÷ VACUUM INTO", keys / vacuum, 3.5),
        Goal("keys ÷ cp", keys / baselines["cp"]["seconds"], 7),
        Goal("keys ÷ cp and fsync", keys / baselines["cp and fsync"]["seconds"], 7),
        Goal("verification's share of keys", 100 * phases["verifying"] / keys, 30, " %"),
        Goal("values ÷ unavoidable CPU per core", cases["values"]["seconds"] / unavoidable, 1.3),
        Goal("page size ÷ VACUUM INTO", cases["page size"]["seconds"] / vacuum, 1.6),
        Goal("peak RSS", keys_rss(results) / 2**20, 256, " MiB"),
    ]  # fmt: skip
    if large is not None:
        starts = large["starts"]
        found += [
            Goal(f"peak RSS at {large['records']:,}", large["keys"]["peak_rss_bytes"] / 2**20, 256, " MiB"),
            Goal(f"time at {large['records']:,} ÷ time at {results['records']:,}", large["keys"]["seconds"] / keys, 11),
            Goal("nothing to do, over the interpreter", 1000 * (starts["nothing to do"] - starts["interpreter"]), 50, " ms"),
            Goal("nothing to recover, over the interpreter", 1000 * (starts["nothing to recover"] - starts["interpreter"]), 20, " ms"),
        ]  # fmt: skip
    return found


def keys_rss(results: dict[str, Any]) -> float:
    return float(results["cases"]["keys"]["peak_rss_bytes"])


def table(results: dict[str, Any], found: list[Goal]) -> str:
    lines = [f"{results['records']:,} records, {results['file_bytes'] / 1e6:,.0f} MB", ""]
    lines.append(f"{'':<18}{'seconds':>9}{'peak RSS':>11}{'a worker ≤':>12}   where the time goes")
    everything = {
        **results["baselines"],
        **{f"loop, {name}": one for name, one in results["loops"].items()},
    }
    for name, one in {**everything, **results["cases"]}.items():
        phases = one["phases"] or {}
        told = ", ".join(
            f"{phase} {seconds:.2f}" for phase, seconds in phases.items() if seconds >= 0.01
        )
        worker = one["peak_rss_of_a_worker_bytes"]
        lines.append(
            f"{name:<18}{one['seconds']:>9.2f}{one['peak_rss_bytes'] / 2**20:>7.0f} MiB"
            + (f"{worker / 2**20:>8.0f} MiB" if worker else " " * 12)
            + f"   {told}"
        )
    costs = ", ".join(f"{name} {1e6 * cost:.2f}" for name, cost in results["unavoidable"].items())
    lines += ["", f"unavoidable for pickle → msgpack, µs of CPU per record: {costs}", ""]
    lines.append(f"{'goal':<46}{'measured':>12}{'':>14}")
    for goal in found:
        bound = f"{'≥' if goal.at_least else '≤'} {goal.goal:g}{goal.unit}"
        lines.append(
            f"{goal.name:<46}{goal.measured:>9.2f}{goal.unit:<4}{bound:>10}   {'met' if goal.met else 'NOT MET'}"
        )
    return "\n".join(lines)


def plot(found: list[Goal], path: Path) -> None:
    """How much of what each goal allows is used: up to the line it is met."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [goal.name for goal in found][::-1]
    used = [
        goal.goal / goal.measured if goal.at_least else goal.measured / goal.goal for goal in found
    ][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(found) + 1.2), layout="constrained")
    bars = axes.barh(names, used, color=["#2a7f62" if one <= 1 else "#c0563b" for one in used])
    labels = [f"{goal.measured:.3g}{goal.unit} of {goal.goal:g}{goal.unit}" for goal in found][::-1]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_xlim(0, max(2.0, *used) * 1.25)
    axes.set_xlabel("used of what the goal allows (1: just met)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)

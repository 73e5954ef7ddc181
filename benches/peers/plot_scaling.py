"""Draws what `cargo bench --bench scaling` or `paper_scaling` prints: python plot_scaling.py scaling.jsonl scaling.svg
(needs matplotlib)."""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

figures = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
exchanges = all("bytes_per_step" in figure for figure in figures)
drawing, plots = plt.subplots(1, 2 if exchanges else 1, figsize=(10 if exchanges else 6, 4), squeeze=False)
axes = plots[0][0]
curves = sorted({(figure["job"], figure["partitions"], figure["wait_seconds"] // 1e-3) for figure in figures})
for job, partitions, wait in curves:
    of = [f for f in figures if (f["job"], f["partitions"], f["wait_seconds"] // 1e-3) == (job, partitions, wait)]
    of.sort(key=lambda figure: figure["processes"])
    processes = [figure["processes"] for figure in of]
    label = f"{job}, {partitions} of {of[0]['wait_seconds'] * 1000:.1f} ms"
    axes.plot(processes, [figure["efficiency"] for figure in of], marker="o", label=label)
    if exchanges:
        megabytes = [figure["bytes_per_step"] / 1e6 for figure in of]
        plots[0][1].plot(processes, [figure["beyond_seconds"] * 1000 for figure in of], marker="o", label=f"ms, {label}")
        plots[0][1].plot(processes, megabytes, marker="x", linestyle=":", label=f"MB given to others, {label}")
axes.axhline(1.0, color="grey", linewidth=0.8)
axes.set(xlabel="processes", ylabel="ideal time by measured time", ylim=(0, 1.05))
axes.legend()
if exchanges:
    plots[0][1].set(xlabel="processes", ylabel="a step, beyond the busiest node's lanes", ylim=(0, None))
    plots[0][1].legend(fontsize="small")
drawing.tight_layout()
plt.savefig(sys.argv[2])

"""Draws what `cargo bench --bench scaling` prints: python plot_scaling.py scaling.jsonl scaling.svg (needs matplotlib)."""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

figures = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
axes = plt.figure(figsize=(6, 4)).gca()
for job in sorted({figure["job"] for figure in figures}):
    points = sorted((f["processes"], f["efficiency"]) for f in figures if f["job"] == job)
    axes.plot(*zip(*points), marker="o", label=job)
axes.axhline(1.0, color="grey", linewidth=0.8)
axes.set(xlabel="processes", ylabel="ideal time by measured time", ylim=(0, 1.05))
axes.set_title(f"{figures[0]['partitions']} partitions of {figures[0]['wait_seconds'] * 1000:.0f} ms each")
axes.legend()
plt.savefig(sys.argv[2])

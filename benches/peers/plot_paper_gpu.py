"""Draws what `cargo bench --bench paper_gpu` prints: seconds by iterations, a line for each kind of nodes; and a table.

python plot_paper_gpu.py FIGURES.jsonl OUT.svg
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)


def main(figures, out):
    with open(figures) as lines:
        rows = [json.loads(line) for line in lines if line.startswith("{")]
    rows = [row for row in rows if row["bench"] == "paper_gpu"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    nodes = list(dict.fromkeys(row["nodes"] for row in rows))
    picture, axes = plt.subplots(1, len(networks), figsize=(6 * len(networks), 4), squeeze=False)
    for axis, network in zip(axes[0], networks):
        print(f"\n| {network}, seconds | " + " | ".join(nodes) + " |\n|---|" + "---|" * len(nodes))
        of = {(row["nodes"], row["iterations"]): row for row in rows if row["network"] == network}
        iterations = sorted({iterations for _, iterations in of})
        for steps in iterations:
            seconds = [of.get((kind, steps), {}).get("median_seconds") for kind in nodes]
            print(f"| {steps} iterations | " + " | ".join("" if s is None else f"{s:.3f}" for s in seconds) + " |")
        for kind in nodes:
            points = [(steps, of[kind, steps]["median_seconds"]) for steps in iterations if (kind, steps) in of]
            axis.plot(*zip(*points), marker="o", label=kind)
        axis.set(title=f"{network}, {rows[0]['samples']} samples", xlabel="iterations", ylabel="seconds")
        axis.set_ylim(bottom=0)
        axis.legend()
    picture.tight_layout()
    picture.savefig(out)


if __name__ == "__main__":
    main(*sys.argv[1:])

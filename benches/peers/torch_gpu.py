"""PyTorch on a GPU: training steps of the networks of `cargo bench --bench gpu`, on samples that stay there as bytes.

Eager, torch.compile and CUDA graphs, in f32 and tf32. With --ours the program of that bench is run in turn with each,
and a table of ratios is printed at the end. See README.md.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from common import emit


def mlp():
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)), (784,), 10


def lenet():
    layers = (nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
              nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    return nn.Sequential(*layers), (1, 28, 28), 10


def wide():
    side = 4096
    return nn.Sequential(nn.Linear(side, side), nn.ReLU(), nn.Linear(side, side), nn.ReLU(),
                         nn.Linear(side, side)), (side,), side


NETWORKS = {"mlp": mlp, "lenet": lenet, "wide": wide}


class Steps:
    """Training steps of one kind; `run(n)` takes n of them and waits for the GPU."""

    def __init__(self, network, variant, batch, device):
        torch.manual_seed(0)
        self.model, shape, classes = NETWORKS[network]()
        self.model = self.model.to(device)
        count = max(16 * batch, 8192)
        self.x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, device=device)
        self.y = torch.randint(0, classes, (count,), device=device)
        self.batch, self.variant, self.device = batch, variant, device
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.01, fused=True)
        self.forward = torch.compile(self.model) if variant == "compile" else self.model
        self.order, self.at, self.graph = None, 0, None

    def pick(self):
        if self.order is None or self.at + self.batch > len(self.x):
            self.order, self.at = torch.randperm(len(self.x), device=self.device), 0
        self.at += self.batch
        return self.order[self.at - self.batch:self.at]

    def step(self, pick):
        loss = F.cross_entropy(self.forward(self.x[pick].float().mul_(1 / 255)), self.y[pick])
        self.sgd.zero_grad(set_to_none=self.variant != "graph")
        loss.backward()
        self.sgd.step()

    def capture(self):
        self.static = self.pick().clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(self.static)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.static)

    def run(self, steps):
        if self.variant == "graph" and self.graph is None:
            self.capture()
        for _ in range(steps):
            if self.graph:
                self.static.copy_(self.pick())
                self.graph.replay()
            else:
                self.step(self.pick())
        if self.device == "cuda":
            torch.cuda.synchronize()


def rate(run, batch, steps, runs):
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        run(steps)
        seconds.append(time.perf_counter() - begun)
    return round(batch * steps / statistics.median(seconds))


def ours(program, network, batch, precision, opt, *flags):
    command = [program, "--bench", "--gpu=on", f"--network={network}", f"--batch={batch}", f"--precision={precision}",
               f"--steps={opt.steps}", f"--runs={opt.runs}", "--threads=1", *opt.flag, *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(f"{' '.join(command)} ended with {run.returncode}: {run.stderr}", file=sys.stderr, flush=True)
        return float("nan")
    line = run.stdout.strip().splitlines()[-1]
    print(line, flush=True)
    return json.loads(line)["samples_per_second_median"]


def matrix_rate(precision, side=8192):
    """10^12 operations a second of the card's own matrix products."""
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    run = lambda steps: ([torch.mm(a, b, out=out) for _ in range(steps)], torch.cuda.synchronize())
    run(3)
    return round(rate(run, 1, 20, 5) * 2 * side ** 3 / 1e12, 1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--network", default="mlp,lenet,wide")
    p.add_argument("--batch", default="128,1024", help="of mlp and lenet; that of wide is 4096")
    p.add_argument("--variant", default="eager,compile,graph")
    p.add_argument("--precision", default="f32,tf32")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--runs", type=int, default=7)
    p.add_argument("--device", default="cuda", help="cpu only to try the script")
    p.add_argument("--ours", help="the program of `cargo bench --bench gpu`")
    p.add_argument("--flag", action="append", default=[], help="a flag for that, such as --flag=--cuda-libraries=FOLDER")
    opt = p.parse_args()
    table = []
    for precision in opt.precision.split(","):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        device = torch.cuda.get_device_name() if opt.device == "cuda" else "CPU"
        if opt.device == "cuda":
            emit(bench="matrix_rate", precision=precision, teraflops=matrix_rate(precision), device=device)
        for network in opt.network.split(","):
            for batch in [4096] if network == "wide" else [int(batch) for batch in opt.batch.split(",")]:
                rates = {}
                for variant in opt.variant.split(","):
                    if variant == "graph" and opt.device != "cuda":
                        continue
                    steps = Steps(network, variant, batch, opt.device)
                    steps.run(20)
                    rates[variant] = rate(steps.run, batch, opt.steps, opt.runs)
                    emit(bench="torch_gpu", network=network, batch=batch, precision=precision, variant=variant,
                         samples_per_second_median=rates[variant], device=device, torch=torch.__version__)
                    del steps
                    if opt.ours:
                        rates.setdefault("ours", []).append(ours(opt.ours, network, batch, precision, opt))
                if opt.ours and network == "lenet":
                    rates["ours with cuDNN"] = [ours(opt.ours, network, batch, precision, opt, "--cudnn")]
                table.append((network, batch, precision, rates))
    for network, batch, precision, rates in table:
        all_mine = [(name, statistics.median(rates.pop(name))) for name in ("ours", "ours with cuDNN") if name in rates]
        words = [f"{name} {count:,}" for name, count in rates.items()]
        for name, mine in all_mine:
            words += [f"{name} {mine:,.0f}"] + [f"{mine / count:.2f} x {other}" for other, count in rates.items()]
        print(f"{network:6} {batch:5} {precision:5} " + "  ".join(words), file=sys.stderr)


if __name__ == "__main__":
    main()

"""PyTorch on a GPU: training steps of the networks of `cargo bench --bench gpu`, on samples that stay there as bytes.

Eager, torch.compile, CUDA graphs, and CUDA graphs of what torch.compile makes, in f32 and tf32. Samples are picked, scaled
and passed through network and loss by one function, which is what is compiled. With --ours the program of that bench is run
in turn with each, or once with --ours-once, and a table of ratios is printed at the end. See README.md.
"""
import argparse
import json
import math
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
VARIANTS = ("eager", "compile", "graph", "compile+graph")


class Steps:
    """Training steps of one kind; `run(n)` takes n of them and waits for the GPU."""

    def __init__(self, network, variant, batch, device):
        torch.manual_seed(0)
        # Nothing that was compiled for another shape makes this one general.
        torch._dynamo.reset()
        self.model, shape, classes = NETWORKS[network]()
        self.model = self.model.to(device)
        count = max(16 * batch, 8192)
        self.x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, device=device)
        self.y = torch.randint(0, classes, (count,), device=device)
        self.batch, self.device = batch, device
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.01, fused=True)
        self.loss = torch.compile(self.loss_of, dynamic=False) if "compile" in variant else self.loss_of
        self.order, self.at = None, 0
        self.static = self.graph = None
        if "graph" in variant:
            self.capture()

    def loss_of(self, pick):
        return F.cross_entropy(self.model(self.x[pick].float() * (1 / 255)), self.y[pick])

    def pick(self):
        if self.order is None or self.at + self.batch > len(self.x):
            self.order, self.at = torch.randperm(len(self.x), device=self.device), 0
        self.at += self.batch
        return self.order[self.at - self.batch:self.at]

    def step(self, pick):
        self.sgd.zero_grad(set_to_none=True)
        self.loss(pick).backward()
        self.sgd.step()

    def capture(self):
        self.static = self.pick().clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.step(self.static)
        torch.cuda.current_stream().wait_stream(side)
        # So that gradients lie in the graph's own memory.
        self.sgd.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.static)

    def run(self, steps):
        for _ in range(steps):
            if self.graph:
                self.static.copy_(self.pick())
                self.graph.replay()
            else:
                self.step(self.pick())
        if self.device == "cuda":
            torch.cuda.synchronize()


def timed(run, steps):
    begun = time.perf_counter()
    run(steps)
    return time.perf_counter() - begun


def rate(run, opt):
    """Steps a second: the median of some runs of about `opt.seconds`, after as long a warm-up."""
    steps = 16
    while timed(run, steps) < opt.seconds / 2:
        steps *= 2
    steps = math.ceil(steps * opt.seconds / timed(run, steps))
    run(steps)
    return steps / statistics.median(timed(run, steps) for _ in range(opt.runs))


def ours(program, network, batch, precision, opt, *flags):
    command = [program, "--bench", "--gpu=on", f"--network={network}", f"--batch={batch}", f"--precision={precision}",
               f"--runs={opt.runs}", "--threads=1", *opt.flag, *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(f"{' '.join(command)} ended with {run.returncode}: {run.stderr}", file=sys.stderr, flush=True)
        return float("nan")
    line = run.stdout.strip().splitlines()[-1]
    print(line, flush=True)
    return json.loads(line)["samples_per_second_median"]


def matrix_rate(opt, side=8192):
    """10^12 operations a second of the card's own matrix products."""
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    run = lambda steps: ([torch.mm(a, b, out=out) for _ in range(steps)], torch.cuda.synchronize())
    return round(rate(run, opt) * 2 * side ** 3 / 1e12, 1)


def theirs(network, variant, batch, opt):
    """Samples a second; nan, and the reason on the standard error stream, if PyTorch fails."""
    try:
        return round(batch * rate(Steps(network, variant, batch, opt.device).run, opt))
    except Exception as error:
        print(f"{network} {batch} {variant}: {error}", file=sys.stderr, flush=True)
        return float("nan")


def compare(network, batch, precision, device, opt):
    """A line of the table. Ours runs in turn with each of theirs."""
    rates, mine = {}, {"ours": []}
    for variant in opt.variant.split(","):
        if "graph" in variant and opt.device != "cuda":
            continue
        rates[variant] = theirs(network, variant, batch, opt)
        emit(bench="torch_gpu", network=network, batch=batch, precision=precision, variant=variant,
             samples_per_second_median=rates[variant], device=device, torch=torch.__version__)
        if opt.ours and not (opt.ours_once and mine["ours"]):
            mine["ours"].append(ours(opt.ours, network, batch, precision, opt))
    if opt.ours and network == "lenet":
        mine["ours with cuDNN"] = [ours(opt.ours, network, batch, precision, opt, "--cudnn")]
    words = [f"{name} {count:,}" for name, count in rates.items()]
    for name, counts in mine.items():
        if counts:
            median = statistics.median(counts)
            words += [f"{name} {median:,.0f}"] + [f"{median / count:.2f} x {other}" for other, count in rates.items()]
    return f"{network:6} {batch:5} {precision:5} " + "  ".join(words)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--network", default="mlp,lenet,wide")
    p.add_argument("--batch", default="128,1024", help="of mlp and lenet; that of wide is 4096")
    p.add_argument("--variant", default=",".join(VARIANTS))
    p.add_argument("--precision", default="f32,tf32")
    p.add_argument("--seconds", type=float, default=0.5, help="of a run")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--device", default="cuda", help="cpu only to try the script")
    p.add_argument("--ours", help="the program of `cargo bench --bench gpu`")
    p.add_argument("--ours-once", action="store_true", help="run it once, and not in turn with each of PyTorch's")
    p.add_argument("--matrix-rate", action="store_true", help="measure the card's own matrix products, too")
    p.add_argument("--flag", action="append", default=[], help="a flag for that, such as --flag=--cuda-libraries=FOLDER")
    opt = p.parse_args()
    torch.backends.cudnn.benchmark = True
    table = []
    for precision in opt.precision.split(","):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        device = torch.cuda.get_device_name() if opt.device == "cuda" else "CPU"
        if opt.device == "cuda" and opt.matrix_rate:
            emit(bench="matrix_rate", precision=precision, teraflops=matrix_rate(opt), device=device)
        for network in opt.network.split(","):
            for batch in [4096] if network == "wide" else [int(batch) for batch in opt.batch.split(",")]:
                table.append(compare(network, batch, precision, device, opt))
                print(table[-1], file=sys.stderr, flush=True)
    print("\n".join(table))


if __name__ == "__main__":
    main()

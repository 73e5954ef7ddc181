"""Writes what PyTorch makes of fixed weights and samples, for `cargo test --test pytorch` to compare with.

    pip install torch safetensors && python tests/pytorch/reference.py

Weights and samples come from `numbers`, which the test has as well. Every case is 50 steps over all samples at once.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

HERE = Path(__file__).parent
SAMPLES, STEPS, CLASSES = 48, 50, 5


def numbers(count, offset, scale):
    """Fixed numbers in [-scale, scale), the same in the test."""
    return [(((index + offset) * 7919 % 2003) / 2003 * 2 - 1) * scale for index in range(count)]


def tensor(shape, offset, scale):
    return torch.tensor(numbers(torch.Size(shape).numel(), offset, scale), dtype=torch.float64).float().reshape(shape)


class Network(nn.Module):
    """Layers by number, as DistDL names their parameters."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            for index, (name, parameter) in enumerate(self.named_parameters()):
                # Scales of normalisations begin near 1.
                begin = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
                parameter.copy_(begin + tensor(parameter.shape, 100 * index, 0.3))

    def forward(self, inputs):
        return self.layers(inputs)


def mlp(activation=nn.ReLU, outputs=CLASSES):
    return Network(nn.Linear(20, 32), activation(), nn.Linear(32, 16), activation(), nn.Linear(16, outputs))


def lenet():
    return Network(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.MaxPool2d(2),
                   nn.Flatten(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, CLASSES))


def strided():
    return Network(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.LeakyReLU(), nn.AvgPool2d(2, stride=1),
                   nn.Flatten(), nn.Linear(100, CLASSES))


def without_bias():
    return Network(nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.LeakyReLU(), nn.AvgPool2d(2, stride=1),
                   nn.Flatten(), nn.Linear(100, 16, bias=False), nn.Tanh(), nn.Linear(16, CLASSES, bias=False))


def layer_norm():
    return Network(nn.Linear(20, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, CLASSES))


def batch_norm():
    return Network(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                   nn.Linear(100, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, CLASSES))


class Block(nn.Module):
    """Layers, a shortcut or none, and the sum of the two; named by number in the order in which DistDL places them."""

    def __init__(self, layers, shortcut=None):
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, inputs):
        return self.layers(inputs) + (inputs if self.shortcut is None else self.shortcut(inputs))


def residual():
    def convolution(inputs, outputs, stride=1):
        return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)

    return Network(convolution(1, 4),
                   Block([nn.BatchNorm2d(4), nn.ReLU(), convolution(4, 4)]),
                   Block([nn.BatchNorm2d(4), nn.ReLU(), convolution(4, 6, 2), Block([convolution(6, 6), nn.Tanh()])],
                         nn.Conv2d(4, 6, 1, stride=2)),
                   nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, CLASSES))


def frozen():
    """Of which the convolution and both norms stay as they are."""
    network = batch_norm()
    for index in 0, 1, 6:
        network.layers[index].eval().requires_grad_(False)
    return network


def embedding():
    return Network(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, CLASSES))


class Lamb(torch.optim.Optimizer):
    """Algorithm 2 of You et al., "Large batch optimization for deep learning", 2020; PyTorch itself has none."""

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.move(parameter, group)

    def move(self, parameter, group):
        state, (keep_mean, keep_square) = self.state[parameter], group["betas"]
        zeros = torch.zeros_like(parameter)
        step = state["step"] = state.get("step", 0) + 1
        mean = state["mean"] = state.get("mean", zeros).lerp(parameter.grad, 1 - keep_mean)
        square = state["square"] = state.get("square", zeros).lerp(parameter.grad ** 2, 1 - keep_square)
        mean, square = mean / (1 - keep_mean ** step), square / (1 - keep_square ** step)
        direction = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        norms = parameter.norm().item(), direction.norm().item()
        ratio = norms[0] / norms[1] if all(norms) else 1.0
        parameter -= group["lr"] * ratio * direction


LABELS = torch.tensor([sample * 3 % 7 % CLASSES for sample in range(SAMPLES)])
ROWS = tensor((SAMPLES, 20), 5, 1.0)
IMAGES = tensor((SAMPLES, 1, 12, 12), 9, 1.0)
WORDS = torch.tensor([[(5 * sample + 3 * place) % 7 for place in range(4)] for sample in range(SAMPLES)])
VALUES = tensor((SAMPLES, CLASSES), 11, 1.0)
SHARES = (VALUES + 1) / 2
SIGNS = torch.where(VALUES > 0, 1.0, -1.0)


def cross_entropy(outputs):
    return functional.cross_entropy(outputs, LABELS)


def case(network, inputs, optimizer, loss=cross_entropy, norm_max=None):
    """The losses of all steps, and the loss in evaluation behind them."""
    losses = []
    stepper = optimizer(network.parameters())
    for _ in range(STEPS):
        stepper.zero_grad()
        value = loss(network(inputs))
        value.backward()
        if norm_max is not None:
            nn.utils.clip_grad_norm_(network.parameters(), norm_max)
        stepper.step()
        losses.append(value.item())
    network.eval()
    with torch.no_grad():
        return {"losses": losses, "evaluated": loss(network(inputs)).item()}


def optimizer(kind, **options):
    return lambda parameters: kind(parameters, **options)


def with_rates(lr, factors, kind, **options):
    """Groups of a weight and a bias, with the rate times each of the factors."""
    def of(parameters):
        parameters = list(parameters)
        groups = [{"params": parameters[2 * index:2 * index + 2], "lr": lr * factor} for index, factor in enumerate(factors)]
        return kind(groups, lr=lr, **options)
    return of


SGD = optimizer(torch.optim.SGD, lr=0.1)


def cases():
    optim = torch.optim
    optimizers = {
        "momentum": optimizer(optim.SGD, lr=0.05, momentum=0.9),
        "dampening": optimizer(optim.SGD, lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.01),
        "nesterov": optimizer(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
        "adagrad": optimizer(optim.Adagrad, lr=0.02, lr_decay=0.01, weight_decay=0.01, initial_accumulator_value=0.1),
        "rms_prop": optimizer(optim.RMSprop, lr=0.003),
        "rms_prop_centered": optimizer(optim.RMSprop, lr=0.001, alpha=0.9, momentum=0.5, centered=True, eps=1e-3),
        "adam": optimizer(optim.Adam, lr=0.005),
        "adam_amsgrad": optimizer(optim.Adam, lr=0.005, weight_decay=0.01, amsgrad=True),
        "adam_w": optimizer(optim.AdamW, lr=0.005),
        "lamb": optimizer(Lamb, lr=0.02),
    }
    yield "mlp", case(mlp(), ROWS, SGD)
    for name, kind in optimizers.items():
        yield name, case(mlp(), ROWS, kind)
    yield "layer_rates", case(mlp(), ROWS, with_rates(0.005, [0.25, 1, 4], optim.AdamW, weight_decay=0.1))
    yield "layer_rates_lamb", case(mlp(), ROWS, with_rates(0.02, [0.25, 1, 4], Lamb))
    yield "clipped", case(mlp(), ROWS, SGD, norm_max=0.1)
    yield "clipped_over_lanes", case(mlp(), ROWS, SGD, norm_max=0.15)
    yield "clipped_lamb", case(mlp(), ROWS, optimizers["lamb"], norm_max=0.1)
    for name, activation in [("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid), ("softplus", nn.Softplus)]:
        yield name, case(mlp(activation), ROWS, SGD)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.25, 1.0])
    for name, options in [("smoothed", {"label_smoothing": 0.1}), ("weighted", {"weight": weights}),
                          ("weighted_smoothed", {"weight": weights, "label_smoothing": 0.2}),
                          ("ignored", {"ignore_index": 2})]:
        yield name, case(mlp(), ROWS, SGD, lambda outputs: functional.cross_entropy(outputs, LABELS, **options))
    yield "squared", case(mlp(), ROWS, SGD, lambda outputs: functional.mse_loss(outputs, VALUES))
    yield "l1", case(mlp(), ROWS, SGD, lambda outputs: functional.l1_loss(outputs, VALUES))
    yield "hinge", case(mlp(), ROWS, SGD, lambda outputs: torch.clamp(1 - SIGNS * outputs, min=0).mean())
    binary = functional.binary_cross_entropy_with_logits
    yield "binary", case(mlp(), ROWS, SGD, lambda outputs: binary(outputs, SHARES))
    yield "lenet", case(lenet(), IMAGES, SGD)
    yield "strided", case(strided(), IMAGES, SGD)
    yield "without_bias", case(without_bias(), IMAGES, SGD)
    yield "layer_norm", case(layer_norm(), ROWS, SGD)
    # At twice the rate rounding grows to more than what is compared, in PyTorch between two kinds of CPU as well.
    yield "batch_norm", case(batch_norm(), IMAGES, optimizer(optim.SGD, lr=0.05))
    yield "residual", case(residual(), IMAGES, optimizer(optim.SGD, lr=0.05))
    yield "frozen", case(frozen(), IMAGES, optimizer(optim.SGD, lr=0.05, weight_decay=0.01), norm_max=0.5)
    yield "embedding", case(embedding(), WORDS, SGD)


def rates(make):
    stepper = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule, found = make(stepper), []
    for _ in range(30):
        found.append(stepper.param_groups[0]["lr"])
        stepper.step()
        schedule.step()
    return found


def schedules():
    yield "step", rates(lambda s: lr_scheduler.StepLR(s, 7, gamma=0.5))
    yield "multi_step", rates(lambda s: lr_scheduler.MultiStepLR(s, [4, 11, 12], gamma=0.3))
    yield "exponential", rates(lambda s: lr_scheduler.ExponentialLR(s, gamma=0.9))
    yield "cosine", rates(lambda s: lr_scheduler.CosineAnnealingLR(s, 30, eta_min=0.01))
    yield "points", rates(lambda s: lr_scheduler.LambdaLR(s, points))
    yield "warm_up", rates(lambda s: lr_scheduler.SequentialLR(
        s, [lr_scheduler.LinearLR(s, start_factor=0.1, total_iters=6), lr_scheduler.ExponentialLR(s, gamma=0.9)], [6]))


def points(step):
    """Lines between rates at steps 3, 8, 20 and 21, over the rate of `rates`."""
    for (begin, low), (end, high) in [((0, 0.1), (3, 0.1)), ((3, 0.1), (8, 1.0)), ((8, 1.0), (20, 0.25)), ((20, 0.25), (21, 0.05))]:
        if step <= end:
            return low + (high - low) * (step - begin) / (end - begin)
    return 0.05


def model():
    """A trained model as PyTorch writes it, and what it makes of the images."""
    network = lenet()
    case(network, IMAGES, SGD)
    save_file(network.state_dict(), HERE / "lenet.safetensors")
    with torch.no_grad():
        return functional.softmax(network(IMAGES), dim=1).flatten().tolist()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference = {"torch": torch.__version__.split("+")[0], "cases": dict(cases()), "schedules": dict(schedules()),
                 "predictions": model()}
    (HERE / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")

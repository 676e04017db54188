"""The metrics on features of a network of your own: PyTorch's where it is installed, else NumPy's.

    python examples/own_features.py

Cost: a few seconds on a CPU. Expect after training: accuracy 1, NC1 less than half of what it was, weights along the
class means (NC3 below 0.5, from above 1), and every sample nearest to the mean of its class (NC4 0).

`measure` takes whatever NumPy can read, detached CPU tensors of PyTorch among it. Features are what the last linear
layer gets: logits = features @ weights.T + bias.
"""

import numpy as np

from deq_nc.collapse import measure

try:
    import torch
except ImportError:
    torch = None

CLASSES, INPUTS, FEATURES, STEPS, RATE, DECAY = 4, 8, 32, 400, 0.5, 5e-3


def clusters():
    """Inputs [N, INPUTS] around a point a class, labels [N]."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(CLASSES), 50)
    centres = rng.normal(size=(CLASSES, INPUTS))
    return (centres[labels] + 0.5 * rng.normal(size=(len(labels), INPUTS))).astype(np.float32), labels


def with_torch(inputs, labels):
    """Yields (features, weights, bias) before and after training a network of PyTorch."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(INPUTS, FEATURES), torch.nn.ReLU())
    head = torch.nn.Linear(FEATURES, CLASSES)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=RATE, weight_decay=DECAY)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    for step in range(STEPS + 1):
        features = body(x)
        if step in (0, STEPS):
            yield features.detach(), head.weight.detach(), head.bias.detach()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features), y).backward()
        optimizer.step()


def with_numpy(inputs, labels):
    """The same by hand."""
    rng = np.random.default_rng(1)
    u, a = rng.normal(size=(INPUTS, FEATURES)) / INPUTS**0.5, np.zeros(FEATURES)
    weights, bias = rng.normal(size=(CLASSES, FEATURES)) / FEATURES**0.5, np.zeros(CLASSES)
    for step in range(STEPS + 1):
        features = np.maximum(inputs @ u + a, 0)
        if step in (0, STEPS):
            yield features, weights, bias
        logits = features @ weights.T + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = (p / p.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels]) / len(labels)
        back = (error @ weights) * (features > 0)
        gradients = inputs.T @ back, back.sum(axis=0), error.T @ features, error.sum(axis=0)
        u, a, weights, bias = (p - RATE * (g + DECAY * p) for p, g in zip((u, a, weights, bias), gradients))


def main():
    inputs, labels = clusters()
    network = with_torch if torch else with_numpy
    print("network of", "PyTorch" if torch else "NumPy")
    for when, (features, weights, bias) in zip(("before", "after"), network(inputs, labels)):
        c = measure(features, labels, weights, bias, num_classes=CLASSES)
        print(
            f"{when} training: accuracy {c.accuracy:.3f}, NC1 {c.nc1:.4f}, "
            f"NC2 {c.nc2_means:.3f}, NC3 {c.nc3:.3f}, NC4 {c.nc4:.3f}"
        )


if __name__ == "__main__":
    main()

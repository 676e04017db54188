"""CIFAR-10 with ResNet-18 under the optimisation of Sun & Shi 2024 as far as it is known: SGD with momentum 0.9 and a
constant rate of 1e-4 for 100 epochs; residual tolerance 1e-3, at most 20 solver steps. Weight decay, batch size and
augmentation are not known and are those of the collapse literature (5e-4, 128, none).

    make train-balanced RECIPE=cifar10_paper DATA_DIR=~/tensorflow_datasets

Results: not measured.
"""

import dataclasses

from experiments.configs.cifar10 import experiment as cifar10

experiment = dataclasses.replace(
    cifar10,
    recipe="cifar10_paper",
    train=dataclasses.replace(cifar10.train, epochs=100, learning_rate=1e-4, schedule="paper"),
)

"""CIFAR-10 with ResNet-18 under the optimisation of Sun & Shi 2024, as far as it is known (`configs.paper`).

    make train-balanced RECIPE=cifar10_paper DATA_DIR=~/tensorflow_datasets
    make reproduce RECIPE=cifar10_paper DATA_DIR=~/tensorflow_datasets SEEDS=3

Cost: half of `cifar10`. The rate is 500 times below that of `cifar10`: expect less collapse. Results: not measured.
"""

from deq_nc.recipes._paper import paper
from deq_nc.recipes.cifar10 import experiment as cifar10

experiment = paper(cifar10)

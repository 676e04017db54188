"""CIFAR-100 with ResNet-18 under the optimisation of Sun & Shi 2024, as far as it is known (`configs.paper`).

    make train-balanced RECIPE=cifar100_paper DATA_DIR=~/tensorflow_datasets
    make reproduce RECIPE=cifar100_paper DATA_DIR=~/tensorflow_datasets SEEDS=3

Cost: half of `cifar100`. Results: not measured.
"""

from deq_nc.recipes._paper import paper
from deq_nc.recipes.cifar100 import experiment as cifar100

experiment = paper(cifar100)

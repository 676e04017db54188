"""CIFAR-100 with ResNet-18, as `cifar10`; a step imbalance of (3, 7) on ten classes is (30, 70) here.

    make train-balanced RECIPE=cifar100 DATA_DIR=~/tensorflow_datasets
    make train-imbalanced RECIPE=cifar100 DATA_DIR=~/tensorflow_datasets
    make reproduce RECIPE=cifar100 DATA_DIR=~/tensorflow_datasets SEEDS=3      # the whole grid

Cost: as `cifar10`. Results: not measured.
"""

import dataclasses

from deq_nc.recipes.cifar10 import experiment as cifar10

experiment = dataclasses.replace(
    cifar10, recipe="cifar100", data=dataclasses.replace(cifar10.data, name="cifar100", majority=30)
)

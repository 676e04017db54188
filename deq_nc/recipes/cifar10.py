"""CIFAR-10 with ResNet-18: the arm (explicit layers or a DEQ) stands in place of the last stage.

    make train-balanced RECIPE=cifar10 DATA_DIR=~/tensorflow_datasets
    make train-imbalanced RECIPE=cifar10 DATA_DIR=~/tensorflow_datasets
    make reproduce RECIPE=cifar10 DATA_DIR=~/tensorflow_datasets SEEDS=3      # the whole grid

Optimisation `collapse` of the collapse literature: rate 0.05 divided by 10 at 1/3 and 2/3 of 200 epochs, decay 5e-4,
batch 128, no augmentation. Meant for one GPU or a TPU host; on CPU an epoch takes hours. Results: not measured.
"""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

experiment = Experiment(
    recipe="cifar10",
    data=DataConfig(name="cifar10"),
    model=ModelConfig(encoder="resnet18", norm="batch", width=64, cell="conv", features=256, inner=256, gain=0.8),
    solver=EquilibriumConfig(solver="anderson", tol=1e-3, max_steps=20, adjoint_tol=1e-3, adjoint_max_steps=20),
    train=TrainConfig(epochs=200, batch_size=128, learning_rate=0.05, weight_decay=5e-4, measurements=20),
)

"""CIFAR-10 with a small convolutional encoder: what two CPU cores can train.

    make train-balanced RECIPE=cifar10_small DATA_DIR=~/tensorflow_datasets ARGS="--data.per-class 500"

Results: not measured.
"""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

experiment = Experiment(
    recipe="cifar10_small",
    data=DataConfig(name="cifar10"),
    model=ModelConfig(encoder="conv", norm="batch", width=32, cell="dense", features=128, inner=128, gain=0.8),
    solver=EquilibriumConfig(solver="anderson", tol=1e-4, max_steps=50, adjoint_tol=1e-3, adjoint_max_steps=50),
    train=TrainConfig(epochs=60, batch_size=128, learning_rate=0.05, weight_decay=5e-4),
)

"""400 images a class of CIFAR-10 with a small convolutional encoder: what two CPU cores can train to the end.

    make train-balanced RECIPE=cifar10_small DATA_DIR=~/tensorflow_datasets
    make reproduce RECIPE=cifar10_small DATA_DIR=... SEEDS=3 ARGS="--arms explicit deq --majorities 3 --updates 12000"

The largest balanced subset whose runs reach train error 0 in minutes; `--data.per-class` asks for another (n_A under
step imbalance), `--data.per-class None` for the whole set. 400 images leave 4 in a minority class at R = 100, and the
explicit arm fits them all only with more updates than 7,560: imbalanced settings need `--updates`.

Cost: three to five minutes a run of 7,560 updates on one core. Expect, balanced: train accuracy 1, test accuracy 0.47
(explicit) and 0.49 (deq); the rest in docs/results.md.
"""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

experiment = Experiment(
    recipe="cifar10_small",
    data=DataConfig(name="cifar10", per_class=400),
    model=ModelConfig(encoder="conv", norm="batch", width=32, cell="dense", features=128, inner=128, gain=0.8),
    solver=EquilibriumConfig(solver="anderson", tol=1e-4, max_steps=50, adjoint_tol=1e-3, adjoint_max_steps=50),
    train=TrainConfig(epochs=120, batch_size=64, learning_rate=0.05, weight_decay=5e-4, measurements=10),
)

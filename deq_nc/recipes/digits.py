"""scikit-learn's digits (1,797 images of 8x8, embedded): the whole experiment on a laptop.

make train-balanced                       both arms
make train-imbalanced                     KA=3, R=10
deq-nc train digits --arm deq             one arm

Cost: about a minute an arm on two CPU cores; the grid of 200 runs (`make reproduce SEEDS=5`) an hour and a quarter.
Expect, balanced, in each of 5 seeds: train accuracy 1, test accuracy at least 0.98, NC1 <= 0.04, NC2 of means <= 0.4,
NC3 <= 0.2, every equilibrium solved to 1e-4; under step imbalance what docs/results.md tells.
"""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

experiment = Experiment(
    recipe="digits",
    data=DataConfig(name="digits"),
    model=ModelConfig(encoder="conv", norm="batch", width=32, cell="dense", features=128, inner=128, gain=0.8),
    solver=EquilibriumConfig(solver="anderson", tol=1e-4, max_steps=50, adjoint_tol=1e-3, adjoint_max_steps=50),
    train=TrainConfig(
        epochs=300,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-2,
        decay="coupled",
        schedule="collapse",
    ),
)

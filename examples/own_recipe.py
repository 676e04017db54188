"""A recipe of your own: four clusters of synthetic "images" whose collapse is known, a dense cell, no encoder.

    deq-nc train ./examples/own_recipe.py --workdir runs/own_recipe/deq
    deq-nc train ./examples/own_recipe.py --workdir runs/own_recipe/explicit --arm explicit
    deq-nc report runs/own_recipe/deq runs/own_recipe/explicit

Cost: about a minute of a CPU core a run, nearly all of it compiling. Expect: train and test accuracy at least 0.98,
every equilibrium solved to 1e-5.
Every field is an option too: `--train.epochs 20`. What they mean: deq_nc/config.py.
"""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

experiment = Experiment(
    data=DataConfig(name="synthetic", synthetic_classes=4, synthetic_noise=0.2),
    model=ModelConfig(encoder="identity", cell="dense", features=16, inner=16, gain=0.8),
    solver=EquilibriumConfig(solver="anderson", tol=1e-5, max_steps=40, adjoint_tol=1e-4),
    train=TrainConfig(epochs=4, batch_size=64, learning_rate=0.05, weight_decay=1e-3, measurements=3),
)

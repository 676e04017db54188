"""The smallest experiment that trains."""

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

TINY = Experiment(
    recipe="tiny",
    data=DataConfig(name="synthetic", synthetic_classes=10),
    model=ModelConfig(encoder="identity", cell="dense", features=16, inner=16),
    solver=EquilibriumConfig(tol=1e-4, max_steps=30),
    train=TrainConfig(epochs=2, batch_size=256, learning_rate=0.05, measurements=2, checkpoint_seconds=0.0),
)

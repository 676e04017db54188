"""The optimisation of the paper, for recipes that end in `_paper`."""

import dataclasses

from deq_nc.config import Experiment


def paper(experiment: Experiment) -> Experiment:
    """The same experiment under the optimisation of Sun & Shi 2024, as far as it is known.

    Known: SGD with momentum 0.9, rate 1e-4, the curves' axes run to 100 epochs, the solver stops at a residual of 1e-3
    or after 20 steps. Not known: batch size (128 here), weight decay (5e-4), schedule (constant), augmentation (none).
    """
    return dataclasses.replace(
        experiment,
        recipe=f"{experiment.recipe}_paper",
        solver=dataclasses.replace(experiment.solver, tol=1e-3, max_steps=20),
        train=dataclasses.replace(
            experiment.train,
            epochs=100,
            batch_size=128,
            learning_rate=1e-4,
            momentum=0.9,
            weight_decay=5e-4,
            decay="coupled",
            schedule="paper",
        ),
    )

"""SGD with momentum from optax: schedules and weight decay by name."""

from __future__ import annotations

import optax

from deq_nc.config import TrainConfig


def schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate against step: `collapse` x0.1 at 1/3 and 2/3, `paper` constant, `cosine` to 0; linear warm-up."""
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rate = config.learning_rate
    if config.schedule == "collapse":
        main = optax.piecewise_constant_schedule(rate, {total // 3 - warmup: 0.1, 2 * total // 3 - warmup: 0.1})
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(rate, max(total - warmup, 1))
    else:
        main = optax.constant_schedule(rate)
    if warmup == 0:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), main], [warmup])


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD(momentum) on every parameter; decay `coupled` enters the momentum, `decoupled` (SGDW) goes around it."""
    rate = schedule(config, steps_per_epoch)
    decay = optax.add_decayed_weights(config.weight_decay)
    momentum = optax.trace(config.momentum)
    order = (decay, momentum) if config.decay == "coupled" else (momentum, decay)
    return optax.chain(*order, optax.scale_by_learning_rate(rate))

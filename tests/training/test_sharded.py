"""Two CPU devices: no LAPACK in any program that runs on both of them, and a run that ends.

LAPACK waits for threads that the devices of the program hold: with the eigenvalues of `spectral_radius` in it, a run on
two devices wrote no line for ever.
"""

import dataclasses
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from deq_nc.data import load
from deq_nc.training.mesh import data_mesh, replicated
from deq_nc.training.program import program
from deq_nc.training.step import corpus

LAPACK = re.compile(r"lapack\w*|stablehlo\.(?:triangular_solve|cholesky)|@\w*(?:geev|gesdd|syevd|getrf|geqrf)\w*")


@pytest.mark.parametrize("cell", ["dense", "monotone"])
def test_no_lapack_in_a_program_of_two_devices(tiny, cell):
    """The train step (with the adjoint's escalation and the Jacobian penalty) and all that measures, as lowered."""
    experiment = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, cell=cell, depth=1),
        train=dataclasses.replace(tiny.train, jacobian_penalty=0.1),
    )
    dataset, mesh = load(experiment.data), data_mesh(jax.devices()[:2])
    made, train = program(experiment, dataset, mesh), corpus(dataset, "train", mesh)
    state = made.init(0)
    order = made.order(state.seed, state.step)
    index, mask = jax.device_put((jnp.arange(32), jnp.ones(32, bool)), replicated(mesh))
    variables, batch = {"params": state.params, "batch_stats": state.batch_stats}, made.rows(train, index, mask)
    key = jax.random.key(0)
    programs = {
        "step": made.step.lower(state, train, order),
        "forward": made.forward.lower(variables, batch, train.counts),
        "radius": made.solve.radius.lower(variables, batch, key),
        "amplification": made.solve.amplification.lower(variables, batch, key),
        "iterates": made.solve.iterates.lower(variables, batch, 12),
    }
    assert len(made.rows(train, index, mask).image.addressable_shards) == 2
    found = {name: LAPACK.findall(lowered.as_text()) for name, lowered in programs.items()}
    assert found == dict.fromkeys(programs, [])
    assert LAPACK.search(jax.jit(jnp.linalg.eigvals).lower(jnp.eye(3)).as_text())  # what it looks for is there to find


def test_a_run_on_two_devices_ends(tmp_path):
    """Train, then measure again: processes of their own, since the number of devices is set before JAX starts."""
    environment = os.environ | {"XLA_FLAGS": os.environ["ONE_DEVICE_FLAGS"], "JAX_NUM_CPU_DEVICES": "2"}
    small = "--data.name synthetic --data.synthetic-classes 4 --model.encoder identity --model.cell dense "
    small += "--model.features 16 --model.inner 16 --train.epochs 1 --train.batch-size 64"
    for command in (["train", "digits", "--arm", "deq", *small.split(), "--workdir"], ["measure"]):
        command = [sys.executable, "-m", "deq_nc", *command, str(tmp_path / "run")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "spectral_radius" in done.stdout

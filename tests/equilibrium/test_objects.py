"""Solvers, adjoints and gradients as objects: the layer that names give, open to the user's own, closed to mistakes."""

import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import affine_cell, dense_gradients, random_matrix, tanh_cell

from deq_nc.config import ConfigError
from deq_nc.equilibrium import (
    GMRES,
    JFB,
    Adjoint,
    Anderson,
    BiCGStab,
    Broyden,
    EquilibriumConfig,
    FixedPoint,
    Implicit,
    Neumann,
    NormalCG,
    Phantom,
    Solver,
    Unrolled,
    adjoint_probe,
    equilibrium,
    equilibrium_jvp,
    gradient_fidelity,
    trajectory,
)
from deq_nc.equilibrium.choice import chosen

B, n = 3, 6
M = random_matrix(n, 0.8)
x, g = np.random.default_rng(1).standard_normal((2, B, n))
NAMES = EquilibriumConfig(
    tol=1e-5, max_steps=30, history=3, ridge=1e-7, damping=0.9, adjoint_tol=1e-4, adjoint_max_steps=20
)
BACK = {"tol": 1e-4, "max_steps": 20}


@pytest.mark.parametrize(
    "names, solver, gradient",
    [
        ({}, Anderson(tol=1e-5, max_steps=30, history=3, ridge=1e-7, damping=0.9),
         Implicit(adjoint=Anderson(**BACK, history=3, ridge=1e-7))),
        ({"solver": "fixed_point", "adjoint": "neumann", "escalate": False},
         FixedPoint(tol=1e-5, max_steps=30, damping=0.9), Implicit(adjoint=Neumann(**BACK), escalate=False)),
        ({"solver": "broyden", "adjoint": "gmres"},
         Broyden(tol=1e-5, max_steps=30, history=3, damping=0.9), Implicit(adjoint=GMRES(**BACK))),
        ({"adjoint": "bicgstab"}, None, Implicit(adjoint=BiCGStab(**BACK))),
        ({"adjoint": "normal_cg"}, None, Implicit(adjoint=NormalCG(**BACK))),
        ({"gradient": "jfb"}, None, JFB(tol=1e-4)),
        ({"gradient": "phantom", "phantom_steps": 3, "phantom_damping": 0.5}, None,
         Phantom(steps=3, damping=0.5, tol=1e-4)),
        ({"gradient": "unrolled"}, None, Unrolled()),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)  # fmt: skip
def test_names_stand_for_objects(names, solver, gradient):
    came = chosen(replace(NAMES, **names))
    assert came.gradient == gradient and hash(came.gradient) == hash(gradient)
    assert solver is None or came.solver == solver


def test_the_defaults_of_both_spellings_are_one():
    assert chosen(EquilibriumConfig()) == chosen(None)


def printed(**given):
    """The program of value, evidence and gradient, without the addresses of functions."""

    def loss(M, probe):
        z, stats = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, probe=probe, **given)
        return jnp.sum(z**2), stats

    text = str(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1), has_aux=True))(M, adjoint_probe(B)))
    return re.sub(r"0x[0-9a-f]+", "", text)


def test_both_spellings_are_one_program():
    config = EquilibriumConfig(solver="broyden", tol=1e-5, history=3, adjoint="bicgstab", adjoint_tol=1e-2)
    solver, gradient = Broyden(tol=1e-5, history=3), Implicit(adjoint=BiCGStab(tol=1e-2))
    assert printed(config=config) == printed(solver=solver, gradient=gradient)
    assert printed(config=config) != printed(solver=Broyden(tol=1e-5, history=2), gradient=gradient)


def test_objects_are_static_under_jit():
    traces = []

    def solve(x, solver):
        traces.append(solver)
        return equilibrium(tanh_cell, jnp.zeros_like(x), x, M, solver=solver)[0]

    solve = jax.jit(solve, static_argnames="solver")
    for history in (2, 2, 3):
        solve.lower(x, solver=Anderson(history=history))
    assert traces == [Anderson(history=2), Anderson(history=3)]


@dataclass(frozen=True)
class HeavyBall(Solver):
    """z_next = z + rate r + inertia (z - z_before)"""

    rate: float = 0.9
    inertia: float = 0.1

    def start(self, z):
        return z

    def update(self, memory, step):
        return step.z + self.rate * step.r + self.inertia * (step.z - memory), step.z


@dataclass(frozen=True)
class Terms(Adjoint):
    """du = r + J^T r + ... + (J^T)^terms r; with `wrong` nothing at all."""

    terms: int = 6
    wrong: bool = False

    def correct(self, A, r, goal, budget):
        products = jnp.minimum(self.terms, budget)
        term = lambda i, du: jnp.where((i < products)[:, None], r + du - A(du), du)  # noqa: E731
        return jax.lax.fori_loop(0, self.terms, term, r) * (not self.wrong), products


def gradient_of(gradient, solver=HeavyBall(tol=1e-11, max_steps=400)):
    def loss(M, x, probe):
        z, stats = equilibrium(affine_cell, jnp.zeros((B, n)), x, M, solver=solver, gradient=gradient, probe=probe)
        return jnp.sum(z * g), (z, stats)

    with jax.enable_x64(True):
        (_, (z, stats)), (dM, dx, adjoint) = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
            M, x, adjoint_probe(B)
        )
    assert stats.converged.all()
    return [np.asarray(v) for v in (z, dx, dM)], adjoint


@pytest.mark.parametrize(
    "adjoint",
    [Terms(tol=1e-10, max_steps=400), HeavyBall(rate=0.7, inertia=0.2, tol=1e-10, max_steps=400)],
    ids=lambda adjoint: type(adjoint).__name__,
)
def test_an_own_solver_and_an_own_adjoint_give_the_dense_gradient(adjoint):
    came, evidence = gradient_of(Implicit(adjoint=adjoint, escalate=False))
    for value, expected in zip(came, dense_gradients(M, x, g), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-8 * np.abs(expected).max())
    u = came[1]
    true = np.linalg.norm(g + u @ M - u, axis=1) / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(evidence.residual, true, rtol=1e-2, atol=1e-15)
    assert (evidence.converged == 1).all() and (evidence.steps < 200).all()


def test_an_own_adjoint_that_does_nothing_is_seen_and_replaced():
    came, evidence = gradient_of(Implicit(adjoint=Terms(wrong=True, tol=1e-8, max_steps=60)))
    np.testing.assert_allclose(came[2], dense_gradients(M, x, g)[2], atol=1e-6)
    assert (evidence.escalated == 1).all() and (evidence.converged == 1).all()


def test_tangent_trajectory_and_fidelity_take_objects():
    given = tanh_cell, jnp.zeros_like(x), x, M
    config, adjoint = EquilibriumConfig(solver="fixed_point", adjoint="neumann"), Neumann()
    by_names = jax.make_jaxpr(lambda *dots: equilibrium_jvp(*given, *dots, config))(x, M)
    objects = {"solver": FixedPoint(), "gradient": Implicit(adjoint=adjoint)}
    assert str(by_names) == str(jax.make_jaxpr(lambda *dots: equilibrium_jvp(*given, *dots, **objects))(x, M))
    plain = HeavyBall(rate=1.0, inertia=0.0)  # z + r is f(z) up to rounding
    states = [jax.jit(lambda x, by=by: trajectory(tanh_cell, 0 * x, x, M, by, 4)[0])(x) for by in (plain, config)]
    np.testing.assert_allclose(*states, atol=1e-6)
    own = {"solver": FixedPoint(), "gradients": {"own": Implicit(adjoint=Terms())}}
    assert list(jax.eval_shape(lambda x: gradient_fidelity(tanh_cell, 0 * x, x, M, x, **own), x)) == ["own"]


@dataclass(frozen=True)
class Forgetful(HeavyBall):
    def update(self, memory, step):
        return step.g, None


@dataclass(frozen=True)
class Fractional(Terms):
    def correct(self, A, r, goal, budget):
        return r, goal


def call(**given):
    return lambda: equilibrium(tanh_cell, x, x, M, **given)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Anderson(tol="1e-3"), r"Anderson\.tol: expected a finite number >= 0, got '1e-3'"),
        (lambda: Anderson(tol=float("nan")), r"Anderson\.tol: .*got nan"),
        (lambda: FixedPoint(max_steps=2.5), r"FixedPoint\.max_steps: expected an integer >= 0, got 2\.5"),
        (lambda: Broyden(history=0), r"Broyden\.history: expected an integer >= 1"),
        (lambda: Anderson(history=True), r"Anderson\.history: .*got True"),
        (lambda: HeavyBall(tol=-1), r"HeavyBall\.tol"),
        (lambda: GMRES(tol=[1e-3]), r"GMRES\.tol"),
        (lambda: Phantom(damping=1.5), r"Phantom\.damping: expected a number in \(0, 1\]"),
        (lambda: Implicit(adjoint="gmres"), r"Implicit\.adjoint: expected Anderson\(\), Neumann\(\).* got 'gmres'"),
        (lambda: Implicit(adjoint=GMRES), r"Implicit\.adjoint"),
        (lambda: Implicit(adjoint=JFB()), r"Implicit\.adjoint"),
        (call(solver=GMRES()), r"^solver: expected Anderson\(\).* got GMRES.*adjoint"),
        (call(solver=Neumann()), r"^solver"),
        (call(solver="anderson"), r"^solver: .*EquilibriumConfig"),
        (call(solver=HeavyBall(rate=[1])), r"^solver: expected fields that can be hashed"),
        (call(solver=Forgetful()), r"^solver: expected \(z_next, memory\) of .* from Forgetful\.update"),
        (call(gradient=Implicit(adjoint=Fractional())), r"^Implicit\.adjoint: .* from Fractional\.correct"),
        (call(gradient=GMRES()), r"^gradient: expected Implicit\(\)"),
        (call(config=Anderson()), r"^config: expected an EquilibriumConfig, got Anderson"),
        (call(config=EquilibriumConfig(), solver=Anderson()), r"^config: expected None beside solver="),
        (call(tol="1e-3"), r"^tol: expected a number, got '1e-3'"),
        (call(max_steps=2.5), r"^max_steps: expected an integer, got 2\.5"),
        (call(adjoint_tol=np.ones(2)), r"^adjoint_tol: expected a number"),
    ],
)
@pytest.mark.other_types
def test_wrong_kinds_are_refused_by_the_name_that_was_written(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

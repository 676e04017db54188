"""The example of docs/equilibrium.md (an own f, no flax, trained) is run as it is printed."""

import pathlib
import re


def test_the_printed_example_runs_and_learns():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "equilibrium.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    scope: dict = {}
    exec(compile(block, "docs/equilibrium.md", "exec"), scope)
    assert scope["stats"].converged.all() and scope["adjoint"].residual.max() <= 1e-3
    assert 0 < scope["value"] < 0.3

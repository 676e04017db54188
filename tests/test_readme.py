"""The README's code runs and prints what it should."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_own_f_in_the_layer():
    scope: dict = {}
    exec(BLOCKS[0], scope)
    assert scope["stats"].converged.all() and scope["stats"].residual.max() <= 1e-5
    z = scope["jnp"].zeros((4, 8))
    for _ in range(200):
        z = scope["f"](z, scope["x"], scope["theta"])
    assert float(scope["value"]) == pytest.approx(float((z**2).sum()), rel=1e-4)
    assert scope["gradient"]["w"].shape == (8, 8)


def test_own_features_in_the_metrics(capsys):
    exec(BLOCKS[1], {})
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", capsys.readouterr().out)]
    assert len(numbers) == 3 and all(0 < n < 0.02 for n in numbers)


def test_examples_are_as_short_as_promised():
    lengths = [len([line for line in block.splitlines() if line.strip()]) for block in BLOCKS]
    assert lengths[0] <= 12 and lengths[1] <= 7


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target

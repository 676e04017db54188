"""The README's code runs and prints what it should; the pages at the door name what exists."""

import re
import tomllib
from pathlib import Path

import pytest

import deq_nc

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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_contributing_names_files_that_exist():
    homes = [ROOT / home for home in ("", "deq_nc", "deq_nc/models", "deq_nc/collapse", "tests/collapse")]
    for name in re.findall(r"`([\w./]+\.(?:py|md|yml))`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert "NAME" in name or any((home / name).exists() for home in homes), name


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert deq_nc.__version__ == version
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)[1] == version

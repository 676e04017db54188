"""The wheel: one package, which works without the checkout and beside strangers of any name."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what the wheel installs, and beside it a folder of hostile packages."""
    tree, site, away = (tmp_path_factory.mktemp(name) for name in ("tree", "site", "away"))
    shutil.copytree(ROOT / "deq_nc", tree / "deq_nc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("experiments", "tests"):  # what must stay out is there to be taken in
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        (away / name).mkdir()
        (away / name / "__init__.py").write_text("raise RuntimeError('a stranger was imported')\n")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tree / done.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(site)
    return site, away


def run(site, *command) -> str:
    site, away = site
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *command], cwd=away, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_one_package_and_all_of_it(site):
    assert {path.name for path in site[0].iterdir() if not path.name.endswith(".dist-info")} == {"deq_nc"}
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "deq_nc").rglob("*") if "__pycache__" not in path.parts}
    theirs = {str(path.relative_to(site[0])) for path in (site[0] / "deq_nc").rglob("*")}
    assert ours - theirs == set() and "deq_nc/py.typed" in theirs and "deq_nc/recipes/digits.py" in theirs


def test_it_works_beside_strangers(site):
    assert "digits" in run(site, "-m", "deq_nc", "--help")
    code = "import deq_nc; from deq_nc.cli import load_recipe; print(load_recipe('digits').recipe, deq_nc.__file__)"
    assert run(site, "-c", code).split() == ["digits", str(site[0] / "deq_nc" / "__init__.py")]


@pytest.mark.parametrize("room", ["collapse", "equilibrium", "theory"])
def test_the_layer_and_the_metrics_load_no_library_of_training(site, room):
    code = f"import sys, deq_nc.{room}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "sklearn", "tyro", "rich", "jinja2", "PIL"}
    assert heavy & set(run(site, "-c", code).split()) == set()

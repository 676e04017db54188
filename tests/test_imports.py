"""Imports point one way, and each library stays in its folder."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "deq_nc"
PAGE = ROOT.parent / "docs" / "architecture.md"
ALLOWED = {
    "config": set(),
    "recipes": {"config"},
    "sample": set(),
    "npz": set(),
    "names": set(),
    "disk": set(),
    "geometry": set(),
    "collapse": {"npz", "geometry"},
    "theory": {"geometry"},
    "losses": set(),
    "equilibrium": {"config"},
    "data": {"config", "sample", "disk", "names"},
    "models": {"equilibrium", "config"},
    "runs": {"config", "disk"},
    "training": {"runs", "models", "data", "collapse", "losses", "equilibrium", "config", "sample", "disk"},
    "sweep": {"training", "runs", "data", "config", "names"},
    "report": {"collapse", "theory", "runs", "config", "npz", "sample", "disk", "names"},
}
HOMES = {"jaxopt": {"equilibrium"}, "flax": {"models"}, "orbax": {"training"}, "tensorflow_datasets": {"data"}}


def imported(path: Path) -> set[str]:
    """Dotted names of every import in a file, those inside functions too; relative ones are made absolute."""
    package = ("deq_nc", *path.relative_to(ROOT).with_suffix("").parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own, names = part(path), imported(path)
    ours = {name.split(".")[1] for name in names if name.startswith("deq_nc.")} - {own}
    if not own.startswith(("cli", "__")):
        assert ours <= ALLOWED[own], f"{own} may import {ALLOWED[own]}"
    assert not any(name.split(".")[0] in ("experiments", "tests") for name in names)
    for library, homes in HOMES.items():
        if any(name.split(".")[0] == library for name in names):
            assert own in homes, f"{library} belongs to {homes}"


def modules() -> dict[str, Path]:
    return {
        ".".join(("deq_nc", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES
    }


def files_imported(path: Path) -> set[str]:
    """The files of ours that a file imports; `from folder import file` is the file, not its folder."""
    package = ("deq_nc", *path.relative_to(ROOT).with_suffix("").parts[:-1])
    names, ours = set(), modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names |= {whole if (whole := f"{origin}.{alias.name}") in ours else origin for alias in node.names}
    return names & ours.keys()


def test_no_circle_between_files():
    """Imports inside functions count too; no file takes names from the __init__ of its own folder."""
    ours = modules()
    for name, path in ours.items():
        if path.name != "__init__.py" and name.count(".") > 1:
            assert name.rpartition(".")[0] not in files_imported(path), name
    graph = {name: files_imported(path) - {name} for name, path in ours.items() if path.name != "__init__.py"}
    graph = {name: {other for other in to if other in graph} for name, to in graph.items()}
    while leaves := [name for name, to in graph.items() if not to]:
        for name in leaves:
            del graph[name]
        graph = {name: to - set(leaves) for name, to in graph.items()}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_the_required_packages_are_used():
    used = {name.split(".")[0] for path in FILES for name in imported(path)}
    assert {"jax", "flax", "optax", "jaxopt", "tensorflow_datasets", "orbax"} <= used


@pytest.mark.parametrize("name", ["config", "npz", "cli/terminal"])
def test_the_ground_does_not_import_jax(name):
    assert not any(name.split(".")[0] == "jax" for name in imported(ROOT / f"{name}.py"))


def test_the_page_of_the_architecture_is_true():
    """Its rooms are those of the code, each may import what ALLOWED says, and its paths exist."""
    text = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|(.*)\|$", text, flags=re.M)
    assert {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows} == ALLOWED
    assert len(rows) == len(ALLOWED), "a room has two rows"
    assert {part(path) for path in FILES if not part(path).startswith(("cli", "__"))} == set(ALLOWED)
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert name == "recipes/NAME.py" or (ROOT / name).exists() or (ROOT.parent / name).exists(), name


def test_the_report_flows_one_way():
    rooms = ("read", "tables", "figures", "pages")
    for index, room in enumerate(rooms):
        for path in (ROOT / "report" / room).glob("*.py"):
            inside = {name.split(".")[2] for name in imported(path) if name.startswith("deq_nc.report.")}
            assert inside <= set(rooms[: index + 1]), path

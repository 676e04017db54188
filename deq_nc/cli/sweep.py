"""`deq-nc sweep`: arms and seeds of a setting or of a grid, then the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from deq_nc.cli.recipes import check_data, expand_path, parse_experiment, recipe_of
from deq_nc.cli.report import make_page
from deq_nc.cli.terminal import say_error
from deq_nc.cli.train import put_folders_aside
from deq_nc.config import ARMS, Arm, ConfigError, UserError

SEEDS = 10_000
NAMED = 5  # runs in use that a refusal lists


@dataclass(frozen=True)
class SweepOptions:
    """Arms x seeds of one setting, or of a grid of settings, then the report.

    Every option of `deq-nc train` is accepted too, but for --arm and --seed. What is finished is skipped, what was
    interrupted goes on, a run that fails is listed at the end and tried again by the next call.
    """

    arms: tuple[Arm, ...] | None = None
    """Default: explicit and deq; all four with --grid."""
    seeds: int = 1
    """Seeds 0 .. SEEDS-1."""
    workdir: Path = Path("runs")
    """Root: runs go to WORKDIR/RECIPE-SETTING/ARM-seedN, the page beside them."""
    grid: bool = False
    """Balanced and step imbalance for every KA of --majorities and R of --ratios."""
    majorities: tuple[int, ...] = (3, 5, 7)
    """Majority classes of ten; on K classes KA K / 10 of them."""
    ratios: tuple[float, ...] = (10, 50, 100)
    updates: int | None = None
    """Settings whose epochs hold fewer updates than this get more epochs: imbalance leaves fewer images an epoch."""
    jobs: int | None = None
    """Runs at a time, each an arm of a setting. Default: on CPU one a core, else one."""
    shard: str | None = None
    """I/N: the I-th of N parts of the sweep, for as many hosts or devices over one WORKDIR."""
    wait: bool = False
    """Wait for runs that another process is at work on, instead of leaving with exit code 3."""
    fresh: bool = False
    """Start over: folders of earlier runs of this sweep are renamed (FOLDER-old-1), never deleted."""


def sweep_command(arguments: list[str]) -> int:
    """Exit code 1 where a run failed, 3 where one is in use."""
    recipe, rest = recipe_of(arguments, "sweep")
    options, rest = tyro.cli(SweepOptions, args=rest, prog="deq-nc sweep RECIPE", return_unknown_args=True)
    _check_options(options, rest)
    root = expand_path(options.workdir, "--workdir")
    part, parts = _shard(options.shard)
    base = parse_experiment(recipe, rest, "deq-nc sweep RECIPE")
    check_data(base)
    from deq_nc.runs import folder_of
    from deq_nc.sweep import check, execute, grid, sweep
    from deq_nc.sweep.status import read
    from deq_nc.training import initialize_hosts

    settings = grid(base, options.majorities, options.ratios) if options.grid else [base]
    arms: tuple[Arm, ...] = tuple(dict.fromkeys(options.arms or (ARMS if options.grid else ("explicit", "deq"))))
    jobs = sweep(settings, arms, options.seeds, root, options.updates or 0)
    # The longest first: what is left at the end is short, and no worker waits long for the last.
    mine = sorted(jobs, key=lambda job: -job.steps)[part - 1 :: parts]
    if not options.fresh:
        check(jobs)
    initialize_hosts()
    if not options.wait:
        _refuse_held(mine)
    if options.fresh:
        put_folders_aside([folder_of(run) for job in mine for run in job.runs], options.wait)
        check(mine)
    outcome = execute(mine, root, options.jobs or _cores(len(mine)), quiet=options.grid, wait=options.wait)
    for path, text in outcome.failed.items():
        say_error(f"{path}: {text}", 1)
    for text in outcome.held.values():
        say_error(text, 3)
    code = 1 if outcome.failed else 3 if outcome.held else 0
    if outcome.stopped:
        print("stopped; the same command goes on from here")
        return code
    steps = {folder_of(run): job.steps for job in jobs for run in job.runs}
    missing = sum(not read(path, steps[path]).finished for path in steps) - len(outcome.failed) - len(outcome.held)
    if missing > 0 and parts > 1:
        print(f"shard {options.shard} is done; {missing} runs are left to the others. The last one makes the page.")
        return code
    if found := [path for path in steps if _readable(path)]:
        try:
            shown = make_page(found, None, list(steps) if options.grid else (), options.wait)
            return code or shown
        except (UserError, OSError) as error:
            say_error(f"the page was not made: {error}", 1)
            return code or getattr(error, "exit_code", 1)
    return code


def _check_options(options: SweepOptions, rest: Sequence[str]) -> None:
    for name in (word.split("=")[0] for word in rest):
        if name in ("--arm", "--seed"):
            raise ConfigError(
                f"{name}: a sweep takes {name}s, for example `--arms deq explicit --seeds 3` (seeds 0, 1 and 2). "
                "One run is `deq-nc train`."
            )
    if not 1 <= options.seeds <= SEEDS:
        raise ConfigError(f"--seeds: expected an integer >= 1, at most {SEEDS}, got {options.seeds}.")
    for name in ("arms", "majorities", "ratios"):
        if getattr(options, name) == ():
            raise ConfigError(f"--{name}: expected at least one value, got none.")
    for name in ("jobs", "updates"):
        came = getattr(options, name)
        if came is not None and came < 1:
            raise ConfigError(f"--{name}: expected an integer >= 1, got {came}.")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (text.isascii() and len(text) < 20 and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard: expected I/N with 1 <= I <= N, for example 1/4, got {text!r}.")
    return int(part), int(parts)


def _cores(jobs: int) -> int:
    """Jobs of a sweep: one a core on CPU, one in all on an accelerator or over several hosts."""
    import jax

    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, jobs), 1)


def _refuse_held(jobs: Sequence[Any]) -> None:
    """Raises Held before the first run where another process is at work on one of them."""
    from deq_nc.runs import Held
    from deq_nc.sweep import holders
    from deq_nc.training import led

    def refuse(_: Any) -> None:
        if not (found := holders(jobs)):
            return
        lines = [f"  {path}: {holder}" for path, holder in found.items()]
        more = [f"  and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        raise Held(
            "runs of this sweep are in use:\n"
            + "\n".join(lines[:NAMED] + more)
            + "\nWait for them (--wait), stop that "
            "process, choose another --workdir, or divide the sweep (--shard)."
        )

    led(refuse)


def _readable(path: Path) -> bool:
    """Whether the page can show the run: it measured something, and its files say what it is."""
    from deq_nc.runs import RunFolder

    folder = RunFolder(path)
    try:
        folder.experiment(), folder.summary()
        return folder.history_path.exists()
    except (UserError, OSError):
        return False

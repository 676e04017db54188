"""`python -m experiments.campaign [--quick] [--seed S] [--only NAME] [--out FILE]`: every letter, a table of counts."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
import traceback
from pathlib import Path

import experiments.campaign as campaign
from deq_nc.training.versions import versions


def main() -> int:
    """Exit code 1 if a case did not hold, or a letter could not be run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.campaign", description=campaign.__doc__)
    parser.add_argument("--quick", action="store_true", help="a few tries of each kind: minutes instead of hours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a module of this folder; may be given again")
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    known = sorted(m.name for m in pkgutil.iter_modules(campaign.__path__) if not m.name.startswith("_"))
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"--only: expected one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    rows = []
    for name in options.only or known:
        begun = time.monotonic()
        try:
            cases = importlib.import_module(f"experiments.campaign.{name}").run(options.quick, options.seed)
        except Exception:
            cases = [campaign.Case("the letter itself", 1, 0, (traceback.format_exc(limit=3),))]
        for case in cases:
            rows.append({"letter": name, **case._asdict(), "seconds": round(time.monotonic() - begun, 1)})
            print(f"{name:24} {case.held:5} of {case.tried:5} held  {case.name}", flush=True)
            for fault in case.faults[:5]:
                print(f"{'':24} {fault}", flush=True)
    tried, held = sum(row["tried"] for row in rows), sum(row["held"] for row in rows)
    print(f"{held} of {tried} held")
    if options.out is not None:
        record = {"quick": options.quick, "seed": options.seed, "versions": versions(), "cases": rows}
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if held == tried else 1


if __name__ == "__main__":
    sys.exit(main())

"""The end of a page: what its runs share, and what they were made with."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from deq_nc.config import Experiment, differing_fields
from deq_nc.report.pages import html
from deq_nc.report.pages.html import Section
from deq_nc.report.read import Study
from deq_nc.report.read.folders import VARYING
from deq_nc.runs import Summary

HIDDEN = ("arm", "seed", "workdir")  # of one setting; of a grid VARYING


def configuration(study: Study) -> list[Section]:
    config, hidden = study.all[0].config, VARYING if study.many else HIDDEN
    changed = differing_fields(dataclasses.asdict(Experiment()), config)
    rows = [[name, str(here), str(default)] for name, (default, here) in changed.items() if name not in hidden]
    shared: dict[str, Any] = {key: value for key, value in config.items() if key not in hidden}
    for part, fields in shared.items():
        if isinstance(fields, dict):
            shared[part] = {key: value for key, value in fields.items() if f"{part}.{key}" not in hidden}
    differ = "arm, seed and imbalance" if study.many else "arm and seed"
    parts = [
        html.words(f"Every run shares it; the runs differ in {differ}. Fields that differ from the defaults:"),
        html.table(["field", "here", "default"], rows or [["none", "", ""]]),
        html.fold("Full configuration", html.tag("pre", json.dumps(shared, indent=2))),
    ]
    summaries = [(run, run.summary) for run in study.all]
    if not study.many:
        made = [
            [run.arm, str(run.seed), run.state, summary.get("device") or "–", _versions(summary) or "–"]
            for run, summary in summaries
        ]
        heading, looks = ["arm", "seed", "state", "device", "versions"], dict.fromkeys((2, 3, 4), "words")
        runs = Section("runs", "Runs and versions", [html.table(heading, made, looks)])
        return [Section("configuration", "Configuration", parts), runs]
    devices = "; ".join(sorted({summary.get("device") or "unknown" for run, summary in summaries if run.finished}))
    versions = next((found for _, summary in summaries if (found := _versions(summary))), "–")
    parts.append(html.words(f"Devices: {devices or '–'}. Versions: {versions}.", note=True))
    return [Section("configuration", "Configuration", parts)]


def _versions(summary: Summary) -> str:
    return ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())

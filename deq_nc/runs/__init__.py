"""What a run folder holds, and how it is read and written; nothing here knows jax.

A run folder: config.json, data.json (checksums of the images), history.jsonl (a line a measurement), checkpoints/, and
when finished summary.json, analysis.npz and along.json; failed.txt says why the last attempt of a sweep ended, .lock
who is at work, damaged/ keeps what could not be read. Whoever writes holds the folder's `Lock`; readers write nothing,
and delete nothing. A file is written whole or not at all.
"""

from deq_nc.runs.files import RunError, read_json, write_json, write_text
from deq_nc.runs.folder import RunFolder, default_workdir, folder_of, place
from deq_nc.runs.fresh import put_aside
from deq_nc.runs.history import History, read_history
from deq_nc.runs.lock import Held, Lock
from deq_nc.runs.records import Along, Iterate, Layer, Line, Number, Summary
from deq_nc.runs.setting import Setting

__all__ = [
    "Along",
    "Iterate",
    "Layer",
    "Line",
    "Number",
    "Summary",
    "Held",
    "History",
    "Lock",
    "RunError",
    "RunFolder",
    "Setting",
    "default_workdir",
    "folder_of",
    "place",
    "put_aside",
    "read_history",
    "read_json",
    "write_json",
    "write_text",
]

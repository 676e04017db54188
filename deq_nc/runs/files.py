"""Files whole or not at all, and what it means where one cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from deq_nc.config import ConfigError
from deq_nc.disk import patiently, regular, write_whole

DEEPEST = 50  # lists and objects in one another; our own files nest 4, Python's recursion ends at some 500


class RunError(ConfigError):
    """A file of a run folder that cannot be used; the message says which, what came, and what to do."""


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file. Raises RunError for anything else at that place, or an error that does not pass."""
    try:
        regular(path)
        return patiently(path.read_bytes)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Nothing was changed; try again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises RunError where the file is damaged or cannot be read."""
    try:
        value = parse(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: expected JSON, got: {error}. The file is damaged.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: expected a JSON object, got {type(value).__name__}. The file is damaged.")
    return value


def parse(text: str | bytes) -> Any:
    """`json.loads`, for what every function of ours can walk. Raises ValueError, RecursionError."""
    value = json.loads(text)
    if _deeper(value, DEEPEST):
        raise ValueError(f"lists and objects nested more than {DEEPEST} deep")
    return value


def _deeper(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(most == 0 or _deeper(each, most - 1) for each in inner)


def write_text(path: Path, text: str) -> None:
    write_whole({path: lambda file: file.write(text.encode("utf-8"))})


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(strict(value), indent=2) + "\n")


def strict(value: Any) -> Any:
    """`value` as JSON can hold it: a number that is not finite is null."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checksum(data: bytes) -> str:
    """32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()

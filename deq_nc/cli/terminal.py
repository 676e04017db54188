"""The streams that a command speaks to: any encoding, a reader that leaves, few open files, `make` in front of it."""

from __future__ import annotations

import codecs
import os
import re
import sys

from deq_nc.config import UserError
from deq_nc.names import printable

ASCII = {"±": "+-", "–": "-", "−": "-", "…": "...", "×": "x", "→": "->", "≤": "<=", "≥": ">="}
FILES = 256  # open files that a command is sure to get along with
MAKE = {"--workdir": "WORKDIR=", "--data.dir": "DATA_DIR=", "--data-dir": "DATA_DIR=", "--seeds": "SEEDS="}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Letters that the terminal's encoding lacks, spelled in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def prepare() -> None:
    """Streams that exist and take every letter, and files enough. Raises UserError where the system allows too few."""
    codecs.register_error("spell", _spell)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller (>&-)
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spell")
    try:
        import resource
    except ImportError:
        return  # not Unix
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < FILES:
        raise UserError(f"open files: expected a limit of at least {FILES}, got {hard}. Raise it: ulimit -n {FILES}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def say_error(message: str, code: int = 2) -> int:
    """One message on stderr; returns `code`."""
    text = "\n".join(map(printable, message.splitlines()))
    print(f"error: {text}{_make(message)}", file=sys.stderr)
    return code


def _make(message: str) -> str:
    """Under make, how its variables call the options in `message`."""
    options = dict.fromkeys(re.findall(r"--[a-z][a-z.-]*[a-z]", message)) if os.environ.get("MAKELEVEL") else {}
    if not options:
        return ""
    known = [f"{option} is {MAKE[option]}" for option in options if option in MAKE]
    others = [option for option in options if option not in MAKE]
    known += [f'other options go into ARGS="{others[0]} ..."'] if others else []
    return f"\nWith make, {', '.join(known)}"


def system_error(error: OSError) -> str:
    """`FILE: REASON`."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def hush() -> None:
    """The reader has left: what is still in the buffers goes nowhere, in silence."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            pass

"""The command line's edges: checks of flags, trouble said in one line, Ctrl-C, odd consoles."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import textwrap
from pathlib import Path

import torch

from utils import Refusal


def number(kind, least, most=math.inf):
    """An argparse type: a finite number of `kind`, int or float, from `least` to `most`."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and value < math.inf):
            wanted = "a whole number" if kind is int else "a number"
            limit = f"to {most}" if most < math.inf else "up"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted} from {least} {limit}")
        return value
    return parse


def user_path(text):
    """An argparse type: a path, in which ~ is the user's home."""
    return Path(os.path.expanduser(text))


def usable_device(name):
    """An argparse type: a torch device that can compute in double precision here. "auto" is a GPU
    if there is one that can; if it cannot, that is said on stderr, and it is the CPU."""
    chosen = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        one = torch.ones(1, 1, dtype=torch.float64, device=chosen)
        (one.exp() @ one).item()
    except Exception as error:  # of many kinds: an unknown name, a dead driver
        reason = f"cannot compute here ({textwrap.shorten(str(error), 120)})"
        if name != "auto":
            raise argparse.ArgumentTypeError(f"{name!r} {reason}; cpu always can") from None
        print(f"The GPU {reason}: going on with the CPU.", file=sys.stderr, flush=True)
        chosen = "cpu"
    return torch.device(chosen)


@contextlib.contextmanager
def errors_in_one_line():
    """Trouble that a user can do something about ends the program with one line on stderr and
    exit code 1; anything else is a mistake of ours and keeps its traceback."""
    try:
        yield
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        sys.exit(1)
    except OSError as error:
        if error.errno and not error.filename:  # print() names no file
            error.filename = "standard output"
        problem = error
    except (Refusal, FloatingPointError) as error:
        problem = error
    except (MemoryError, RuntimeError) as error:  # the CPU's: a RuntimeError of torch's
        if isinstance(error, RuntimeError) and not re.search("(?i)alloc|out of memory", str(error)):
            raise
        problem = "out of memory: a smaller --batch-size or --hidden-dims needs less"
    else:
        return
    sys.exit(f"codelet7.py: error: {problem}")


@contextlib.contextmanager
def as_program():
    """Not for a notebook: Ctrl-C ends it with one line and exit code 130, and a letter that the
    console lacks is printed as an escape such as \\u03b1."""
    def interrupted(*_):
        # A second Ctrl-C has nothing left to end. (SIG_IGN would let Python complain of one that
        # has come already.)
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    if hasattr(sys.stdout, "reconfigure"):  # not if it is closed, nor in IDLE
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        print("\ncodelet7.py: interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # at once: while Python shuts down, Ctrl-C is heard again

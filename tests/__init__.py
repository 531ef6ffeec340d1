"""Run with `python -m unittest` from the project's root. What the tests share is here.

Nothing needs MNIST or a network but test_acceptance.py: the others use stand-in digits.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import os
import struct
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from torchvision.datasets import MNIST

import codelet7
import digits

ROOT = Path(__file__).resolve().parent.parent
draw_few = functools.cache(functools.partial(digits.draw_standin, train=1000, test=200))
NO_NETWORK = ["file:///no/such/folder/"]  # a mirror that fails at once, without a port

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # as main() does it, and for the same reason


def idx_files(data):
    """MNIST's four files, {name: bytes}, for some Digits: IDX's magic number, sizes, data."""
    def idx(tensor):
        sizes = struct.pack(f">{tensor.dim()}I", *tensor.shape)
        return bytes([0, 0, 8, tensor.dim()]) + sizes + tensor.byte().numpy().tobytes()
    return dict(zip(digits.MD5, map(idx, data[1:])))


class TestCase(unittest.TestCase):
    """A test in a temporary folder (self.folder), where MNIST is a small stand-in (self.files, its
    MD5 sums in place of MNIST's) and there is no network unless a test sets MNIST.mirrors."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.raw = self.folder / "data" / "MNIST" / "raw"
        self.files = idx_files(draw_few())
        sums = {name: hashlib.md5(data).hexdigest() for name, data in self.files.items()}
        self.enterContext(mock.patch.dict(digits.MD5, sums))
        self.enterContext(mock.patch.object(MNIST, "mirrors", NO_NETWORK))
        self.enterContext(mock.patch.object(digits, "draw_standin", draw_few))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("MNIST_ROOT", None)

    if not hasattr(unittest.TestCase, "enterContext"):  # Python 3.10
        def enterContext(self, manager):
            self.addCleanup(manager.__exit__, None, None, None)
            return manager.__enter__()

    @functools.cached_property
    def archives(self):
        """The four files, packed: {name: bytes}."""
        return {f"{name}.gz": gzip.compress(data, 1, mtime=0) for name, data in self.files.items()}

    def write_mnist(self, folder=None, files=None):
        """Put MNIST's four files, or others, into self.raw or another folder."""
        folder = folder or self.raw
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in (files or self.files).items():
            (folder / name).write_bytes(data)

    def run_main(self, *arguments):
        """codelet7.main() on the CPU in self.folder; returns its exit code, stdout and stderr."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        defaults = ["--data-dir", str(self.folder / "data"), "--device", "cpu",
                    "--figures-dir", str(self.folder / "figures")]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                codelet7.main([*defaults, *arguments])
            except SystemExit as stop:
                code = stop.code
                if isinstance(code, str):  # as Python itself does it
                    print(code, file=err)
                    code = 1
        return code, out.getvalue(), err.getvalue()

    def assertFails(self, code, names, *arguments):
        """main() ends with `code`, prints nothing but a last line on stderr with all `names`."""
        actual, out, err = self.run_main(*arguments)
        self.assertEqual((actual, out), (code, ""), err)
        line = err.splitlines()[-1]
        self.assertRegex(line, r"^codelet7\.py: error: ")
        self.assertNotIn("Traceback", err)
        for name in names:
            self.assertIn(name, line)

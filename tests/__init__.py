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

from torchvision.datasets import MNIST

import codelet7
import digits

ROOT = Path(__file__).resolve().parent.parent
draw_few = functools.cache(functools.partial(digits.draw_standin, train=1000, test=200))
NO_NETWORK = ["http://127.0.0.1:9/"]  # a port on which nothing listens: refused at once


def idx_files(data):
    """MNIST's four files, {name: bytes}, for some Digits: the IDX format's magic number, sizes, data."""
    def idx(tensor):
        sizes = struct.pack(f">{tensor.dim()}I", *tensor.shape)
        return bytes([0, 0, 8, tensor.dim()]) + sizes + tensor.byte().numpy().tobytes()
    return {"train-images-idx3-ubyte": idx(data.images), "train-labels-idx1-ubyte": idx(data.labels),
            "t10k-images-idx3-ubyte": idx(data.test_images), "t10k-labels-idx1-ubyte": idx(data.test_labels)}


class TestCase(unittest.TestCase):
    """A test in a temporary folder (self.folder), where MNIST is a small stand-in (self.files, its
    MD5 sums in place of MNIST's) and there is no network unless a test sets self.mirrors."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.files = idx_files(draw_few())
        self.archives = {f"{name}.gz": gzip.compress(data, 1, mtime=0) for name, data in self.files.items()}
        md5 = lambda data: hashlib.md5(data).hexdigest()
        self.enterContext(mock.patch.dict(digits.MD5, {name: md5(data) for name, data in self.files.items()}))
        self.enterContext(mock.patch.object(MNIST, "resources", [(name, md5(data)) for name, data in self.archives.items()]))
        self.enterContext(mock.patch.object(MNIST, "mirrors", NO_NETWORK))
        self.enterContext(mock.patch.object(digits, "draw_standin", draw_few))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("MNIST_ROOT", None)

    if not hasattr(unittest.TestCase, "enterContext"):  # Python 3.10
        def enterContext(self, manager):
            self.addCleanup(manager.__exit__, None, None, None)
            return manager.__enter__()

    def write_mnist(self):
        """Put the four files into self.folder / "data"; returns the folder they lie in."""
        raw = self.folder / "data" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, data in self.files.items():
            (raw / name).write_bytes(data)
        return raw

    def run_main(self, *arguments):
        """codelet7.main() on the CPU in self.folder; returns its exit code, stdout and stderr."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        defaults = ["--data-dir", str(self.folder / "data"), "--figures-dir", str(self.folder / "figures"),
                    "--device", "cpu"]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                codelet7.main([*defaults, *arguments])
            except SystemExit as stop:
                code = stop.code
        return code, out.getvalue(), err.getvalue()

    def assertFails(self, code, names, *arguments):
        """main() ends with `code`, nothing on stdout, and one last line on stderr that has all of `names`."""
        actual, out, err = self.run_main(*arguments)
        self.assertEqual((actual, out), (code, ""), err)
        line = err.splitlines()[-1]
        self.assertRegex(line, r"^codelet7\.py: error: ")
        self.assertNotIn("Traceback", err)
        for name in names:
            self.assertIn(name, line)

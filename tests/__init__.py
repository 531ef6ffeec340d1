"""Run with `python -m unittest` from the project's root. Shared by the tests.

Only test_acceptance.py needs MNIST, and nothing needs a network.
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
SETTINGS = {  # passed as flags, since the constants may have been edited
    "epochs": 1, "batch-size": 64, "lr": 1e-4, "hidden-dims": 10, "rho": 0.05,
    "sparsity-weight": 1e-4, "weight-decay": 0.0, "seed": 0}
draw_few = functools.cache(functools.partial(digits.draw_standin, train=1000, test=200))

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # as in main()


def flags(**settings):
    """SETTINGS, with some of them changed, as a list of flags: flags(hidden_dims=3)."""
    settings = {name.replace("_", "-"): value for name, value in settings.items()}
    return [f"--{name}={value}" for name, value in (SETTINGS | settings).items()]


def idx_files(data):
    """MNIST's four files, {name: bytes}, for some Digits: IDX's magic number, sizes, data."""
    def idx(tensor):
        sizes = struct.pack(f">{tensor.dim()}I", *tensor.shape)
        return bytes([0, 0, 8, tensor.dim()]) + sizes + tensor.byte().numpy().tobytes()
    return dict(zip(digits.MD5, map(idx, data[1:])))


def md5(files):
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


def contents(folder):
    """{path: MD5} of all files under a folder. On whole files, assertEqual() can take minutes."""
    return md5({path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*") if path.is_file()})


class TestCase(unittest.TestCase):
    """A test in a temporary folder (self.folder), in which a few stand-in digits take MNIST's place
    (self.files, self.archives; self.data, normalized); no download finds anything."""

    def setUp(self):
        torch.manual_seed(0)
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.raw = self.folder / "data" / "MNIST" / "raw"
        self.figures = self.folder / "figures"
        few = draw_few()
        self.data = few._replace(images=codelet7.normalize(few.images),
                                 test_images=codelet7.normalize(few.test_images))
        self.files = idx_files(few)
        self.archives = {f"{name}.gz": gzip.compress(data, 1, mtime=0)
                         for name, data in self.files.items()}
        self.enterContext(mock.patch.multiple(digits, MD5=md5(self.files), draw_standin=draw_few))
        self.enterContext(mock.patch.multiple(
            MNIST, mirrors=["file:///nowhere/"], resources=list(md5(self.archives).items())))
        self.enterContext(mock.patch.object(codelet7, "MAX_NODE_FIGURES", 32))

    if not hasattr(unittest.TestCase, "enterContext"):  # Python 3.10
        def enterContext(self, manager):
            self.addCleanup(manager.__exit__, None, None, None)
            return manager.__enter__()

    def put(self, folder, files):
        """Write {name: bytes} into a folder."""
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def run_main(self, *arguments, **settings):
        """codelet7.main() in self.folder; returns its exit code, stdout and stderr."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        folders = [f"--data-dir={self.folder / 'data'}", f"--figures-dir={self.figures}"]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                codelet7.main([*folders, *flags(**settings), *arguments])
            except SystemExit as stop:
                code = stop.code
                if isinstance(code, str):  # as Python itself does
                    print(code, file=err)
                    code = 1
        return code, out.getvalue(), err.getvalue()

    def assertFails(self, code, words, *arguments, **settings):
        """main() ends with `code`; the last line on stderr is an error message with all `words`."""
        actual, _, err = self.run_main(*arguments, **settings)
        self.assertEqual(actual, code, f"{arguments} {settings} {err}")
        line = err.splitlines()[-1]
        self.assertRegex(line, r"^codelet7\.py: error: ")
        for word in words:
            self.assertIn(word, line)

    def without_figures(self):
        """Let the runs that follow skip the figures, which take most of a short run's time."""
        self.enterContext(mock.patch.multiple(codelet7, visualize=mock.DEFAULT,
                                              plot_losses=mock.DEFAULT))

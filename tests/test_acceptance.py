"""The assignment itself: 20 epochs on MNIST end where the sheet's author ended."""

import contextlib
import os
import io
import re
import tempfile
import unittest
from unittest import mock

import codelet7
from tests import ROOT, flags

MNIST_ROOT = os.environ.get("MNIST_ROOT") or str(ROOT / "data")


class Acceptance(unittest.TestCase):
    @unittest.skipUnless(os.path.isdir(os.path.join(MNIST_ROOT, "MNIST", "raw")),
                         f"MNIST is not in {MNIST_ROOT}: set MNIST_ROOT, or run codelet7.py once")
    def test_default_run_on_mnist(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(codelet7, "RHO", 0.05), \
                contextlib.redirect_stdout(io.StringIO()) as out:
            codelet7.main(["--dataset=mnist", f"--data-dir={MNIST_ROOT}",
                           f"--figures-dir={folder}", *flags(epochs=20)])
        lines = re.findall(r"^Epoch: (\d+)/20 - Train Loss: (\d\.\d{4})$", out.getvalue(), re.M)
        losses = {int(epoch): float(loss) for epoch, loss in lines}
        self.assertEqual(list(losses), list(range(1, 21)))
        for epoch, sheets, seed_0s in ((1, 0.8029, 0.8048), (20, 0.5329, 0.5308)):
            self.assertAlmostEqual(losses[epoch], sheets, delta=0.005)
            self.assertAlmostEqual(losses[epoch], seed_0s, delta=0.0005)
        test_loss = float(re.search(r"^Test Loss: (\d\.\d{4})$", out.getvalue(), re.M)[1])
        self.assertAlmostEqual(test_loss, 0.5335, delta=0.0005)

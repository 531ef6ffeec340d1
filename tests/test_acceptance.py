"""The assignment itself: 20 epochs on MNIST end where the sheet's author ended."""

import contextlib
import io
import os
import re
import tempfile
import unittest
from pathlib import Path

import codelet7
import digits
from tests import ROOT
from utils import Refusal

MNIST_ROOT = Path(os.environ.get("MNIST_ROOT") or ROOT / "data")


class Acceptance(unittest.TestCase):
    def setUp(self):
        try:
            files, _ = digits.find_files(MNIST_ROOT)
        except (Refusal, OSError) as error:
            self.skipTest(str(error))
        if len(files) < len(digits.MD5):
            self.skipTest(f"MNIST is not in {MNIST_ROOT}: set MNIST_ROOT, or run codelet7.py once")

    def test_default_run_on_mnist(self):
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                codelet7.main(["--dataset", "mnist", "--data-dir", str(MNIST_ROOT),
                               "--figures-dir", folder])
            figures = list(Path(folder).rglob("*.png"))
        lines = re.findall(r"^Epoch: (\d+)/20 - Train Loss: (\d\.\d{4})$", out.getvalue(), re.M)
        losses = {int(epoch): float(loss) for epoch, loss in lines}
        self.assertEqual(list(losses), list(range(1, 21)))
        for epoch, loss in codelet7.SHEET_LOSSES.items():
            self.assertAlmostEqual(losses[epoch], loss, delta=0.005)
        for epoch, loss in ((1, 0.804), (20, 0.531)):  # seed 0's, to three decimals
            self.assertAlmostEqual(losses[epoch], loss, delta=0.0005)
        test_loss = float(re.search(r"^Test Loss: (\d\.\d{4})$", out.getvalue(), re.M)[1])
        self.assertAlmostEqual(test_loss, losses[20], delta=0.01)
        self.assertEqual(len(figures), 26)

"""The assignment itself: 20 epochs on MNIST end with the instructor's losses."""

import contextlib
import io
import re
import tempfile
import unittest

import codelet7
import digits
from tests import flags

RAW = digits.default_root() / "MNIST" / "raw"


class Acceptance(unittest.TestCase):
    @unittest.skipUnless(any(RAW.glob("*-ubyte*")),
                         f"no MNIST in {RAW}: set MNIST_ROOT, or run codelet7.py once")
    def test_default_run_on_mnist(self):
        with tempfile.TemporaryDirectory() as folder, \
                contextlib.redirect_stdout(io.StringIO()) as out:
            codelet7.main(["--dataset=mnist", f"--figures-dir={folder}", *flags(epochs=20)])
        lines = re.findall(r"^Epoch: (\d+)/20 - Train Loss: (\d\.\d{4})$", out.getvalue(), re.M)
        losses = {int(epoch): float(loss) for epoch, loss in lines}
        self.assertEqual(list(losses), list(range(1, 21)))
        for epoch, instructors, seed_0s in ((1, 0.8029, 0.8044), (20, 0.5329, 0.5306)):
            self.assertAlmostEqual(losses[epoch], instructors, delta=0.005)
            self.assertAlmostEqual(losses[epoch], seed_0s, delta=0.0005)
        test_loss = float(re.search(r"^Test Loss: (\d\.\d{4})$", out.getvalue(), re.M)[1])
        self.assertAlmostEqual(test_loss, 0.5332, delta=0.0005)
        self.assertIn("Test images: 25% of the variance explained; mean activation 0.50 (target "
                      "0.05); 5.0 of 10 nodes on per image", out.getvalue())

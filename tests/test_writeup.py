"""The PDF's numbers are those of results.json, and its losses those of the committed run."""

import csv
import json
import re
import shutil
import subprocess
import sys
import unittest

from tests import ROOT

sys.path.insert(0, str(ROOT / "writeup"))
import experiments

TEX = (ROOT / "writeup" / "codelet7.tex").read_text("utf-8")
MACROS = (ROOT / "writeup" / "results.tex").read_text("utf-8")
RESULTS = json.loads((ROOT / "writeup" / "results.json").read_text("utf-8"))
USED = set(re.findall(r"\\result\{([^}#]*)\}", TEX))


def value(key):
    """What results.tex says of a key."""
    return re.search(rf"\\defresult\{{{re.escape(key)}\}}\{{(.*)\}}", MACROS)[1]


class Writeup(unittest.TestCase):
    def test_the_macros_are_those_of_the_results(self):
        self.assertEqual(MACROS, experiments.macros(RESULTS))

    def test_every_number_that_the_text_uses_is_defined_and_the_other_way_round(self):
        self.assertGreater(len(USED), 60)
        self.assertEqual(USED, set(re.findall(r"\\defresult\{([^}]*)\}", MACROS)))

    def test_no_measured_number_is_typed_by_hand(self):
        body = TEX[TEX.index(r"\begin{document}"):]
        body = re.sub(r"\\result\{[^}]*\}|width=[\d.]+|[\d.]+(?:\\textwidth|pt)|"
                      r"\\section\*\{.*?\}", "", body)
        stated = set(re.findall(r"\d+\.\d+", body))
        # the sheet's target, our threshold; the sum of a column in the clamp's example
        self.assertEqual(stated - {"0.05", "0.5", "0.2"}, set())

    def test_the_losses_are_those_of_the_default_run(self):
        with open(ROOT / "figures" / "trained" / "losses.csv") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 20)
        for key, row in (("first", rows[0]), ("last", rows[-1])):
            self.assertEqual(value(key), f"{float(row['loss']):.4f}",
                             "figures/trained/losses.csv is not of the run in codelet7.pdf: "
                             "restore it, or run writeup/experiments.py and rebuild the PDF")

    def test_the_losses_elsewhere_are_the_same(self):
        readme = (ROOT / "README.md").read_text("utf-8")
        for key in ("first", "last", "test", "tanh"):
            self.assertIn(value(key), readme, key)
        first, last, test = ([value(f"seeds-{key}-{kind}") for kind in ("mean", "min", "max")]
                             for key in ("first", "last", "test"))
        for mean, least, most in (first, last, test):
            self.assertIn(f"{mean}, {least} to {most}", readme)
        code = " ".join((ROOT / "codelet7.py").read_text("utf-8").split())
        self.assertIn("{} in the first epoch (mean of 12 seeds; {} to {})".format(*first), code)
        self.assertIn("{} in the last ({} to {})".format(*last), code)

    @unittest.skipUnless(shutil.which("pdftotext"), "pdftotext is not installed")
    def test_the_pdf_is_built_from_these_numbers(self):
        text = subprocess.run(["pdftotext", "-layout", ROOT / "codelet7.pdf", "-"],
                              capture_output=True, encoding="utf-8").stdout
        self.assertLessEqual(text.count("\f"), 4)  # pages
        for key in USED:
            if not key.endswith("-rows") and re.fullmatch(r"[\d.]+", value(key)):
                self.assertIn(value(key), text, key)

"""The PDF's numbers are those of results.json, and its losses those of the committed default run."""

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

TEX = (ROOT / "writeup" / "codelet7.tex").read_text()
MACROS = (ROOT / "writeup" / "results.tex").read_text()
RESULTS = json.loads((ROOT / "writeup" / "results.json").read_text())


class Writeup(unittest.TestCase):
    def test_the_macros_are_those_of_the_results(self):
        self.assertEqual(MACROS, experiments.macros(RESULTS))

    def test_every_number_that_the_text_uses_is_defined(self):
        used, defined = set(re.findall(r"\\result\{([^}#]*)\}", TEX)), set(re.findall(r"\\defresult\{([^}]*)\}", MACROS))
        self.assertGreater(len(used), 60)
        self.assertEqual(used - defined, set())

    def test_no_measured_number_is_typed_by_hand(self):
        body = TEX[TEX.index(r"\begin{document}"):]
        body = re.sub(r"\\result\{[^}]*\}|width=[\d.]+|[\d.]+(?:\\textwidth|pt)|\\section\*\{.*?\}", "", body)
        stated = set(re.findall(r"\d+\.\d+", body))
        self.assertEqual(stated - {"0.05", "0.5", "2.82"}, set())  # the sheet's target, our threshold, white ink

    def test_the_losses_are_those_of_the_default_run(self):
        with open(ROOT / "figures" / "trained" / "losses.csv") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 20)
        for key, row in (("first", rows[0]), ("last", rows[-1])):
            macro = re.search(rf"\\defresult\{{{key}\}}\{{(.*)\}}", MACROS)[1]
            self.assertEqual(macro, f"{float(row['loss']):.4f}",
                             "figures/trained/losses.csv is not of the run in codelet7.pdf: restore the committed "
                             "figures, or run writeup/experiments.py and rebuild the PDF")

    @unittest.skipUnless(shutil.which("pdftotext"), "pdftotext is not installed")
    def test_the_pdf_is_built_from_these_numbers(self):
        text = subprocess.run(["pdftotext", "-layout", ROOT / "codelet7.pdf", "-"], capture_output=True, text=True).stdout
        for key, value in re.findall(r"\\defresult\{((?:first|last|test|seeds-last-.*|tanh|pca))\}\{(.*)\}", MACROS):
            self.assertIn(value, text, key)

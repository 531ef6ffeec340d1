"""The PDF's numbers are those of results.json, all of them, and the README's are the same."""

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
VALUES = dict(re.findall(r"\\defresult\{([^}]*)\}\{(.*)\}\n", MACROS))


class Writeup(unittest.TestCase):
    def test_the_macros_are_those_of_the_results(self):
        self.assertGreater(len(experiments.keys_used()), 40)
        self.assertEqual(MACROS, experiments.macros(RESULTS, experiments.keys_used()))

    def test_no_measured_number_is_typed_by_hand(self):
        body = TEX[TEX.index(r"\begin{document}"):]
        body = re.sub(r"\\result\{[^}]*\}|[\d.]+(?:\\textwidth|pt)|\\section\*\{.*?\}", "", body)
        stated = set(re.findall(r"\d+\.\d+|\d+\\%", body))
        self.assertEqual(stated - {"0.05", "0.5"}, set())  # the sheet's target, our threshold

    def test_the_readme_states_the_same_losses(self):
        readme = (ROOT / "README.md").read_text("utf-8")
        for key in ("first.mine", "last.mine", "test.mine", "last.min", "last.max"):
            self.assertIn(VALUES[f"losses.{key}"], readme, key)

    @unittest.skipUnless(shutil.which("pdftotext"), "pdftotext is not installed")
    def test_the_pdf_is_built_from_these_numbers(self):
        text = subprocess.run(["pdftotext", "-layout", ROOT / "codelet7.pdf", "-"],
                              capture_output=True, encoding="utf-8").stdout
        self.assertLessEqual(text.count("\f"), 4)  # pages
        for key, value in VALUES.items():
            if not key.startswith("tables."):
                self.assertIn(value.replace("\\%", "%"), text, key)

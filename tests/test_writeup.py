"""The PDF's numbers are those of results.json, all of them, and the README's are the same."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import unittest
from unittest import mock

import torch

import codelet7
from tests import ROOT, TestCase, draw_few
from writeup import experiments, macros, measures

TEX = (ROOT / "writeup" / "codelet7.tex").read_text("utf-8")
MACROS = (ROOT / "writeup" / "results.tex").read_text("utf-8")
RESULTS = json.loads((ROOT / "writeup" / "results.json").read_text("utf-8"))
VALUES = re.findall(r"\\defresult\{([^}]*)\}\{([^}]*)\}\{(.*)\}\n", MACROS)


class Writeup(unittest.TestCase):
    def test_the_macros_are_those_of_the_results(self):
        self.assertGreater(len(VALUES), 40)
        self.assertEqual(MACROS, macros.macros(RESULTS, TEX))

    def test_formats_and_paths(self):
        results = {"a": {"1": 0.12345, "all": 0.9996, "few": 0.0012}, "n": 60000, "loss": -0.5,
                   "text": "inf"}
        tex = (r"\result{a.1} \result[pct]{a.1} \result[.2f]{a.1} \result[pct]{a.all} \result{n} "
               r"\result[pct]{a.few} \result[,]{n} \result[+.1f]{loss} \result{text} \result{n}")
        values = {"{}{a.1}": "0.1235", "{pct}{a.1}": r"12\%", "{.2f}{a.1}": "0.12",
                  "{pct}{a.all}": r"100.0\%", "{pct}{a.few}": r"0.1\%", "{}{n}": "60000",
                  "{,}{n}": "60,000", "{+.1f}{loss}": "$-$0.5", "{}{text}": "inf"}
        self.assertEqual(set(macros.macros(results, tex).splitlines()[1:]),
                         {rf"\defresult{use}{{{value}}}" for use, value in values.items()})
        with self.assertRaises(KeyError):
            macros.macros(results, r"\result{a.2}")

    def test_no_measured_number_is_typed_by_hand(self):
        body = TEX[TEX.index(r"\begin{document}"):]
        body = re.sub(r"\\result(\[[^]]*\])?\{[^}]*\}|[\d.]+(?:\\\w+width|pt|cm|em)"
                      r"|\\section\*\{.*?\}|arXiv[:~ ][\d.]+", "", body)
        stated = set(re.findall(r"\d+\.\d+|\d+\\%", body))
        # The target, our thresholds, the penalty weights of the runs, STD.
        self.assertEqual(stated - {"0.05", "0.5", "0.1", "0.9", "0.01", "0.3081"}, set())

    def test_the_readme_states_the_same_losses(self):
        readme = (ROOT / "README.md").read_text("utf-8")
        losses = RESULTS["losses"]
        for loss in (losses["mine"]["first"], losses["mine"]["last"], losses["mine"]["test"],
                     losses["min"]["last"], losses["max"]["last"]):
            self.assertIn(f"{loss:.4f}", readme)

    @unittest.skipUnless(shutil.which("pdftotext"), "pdftotext is not installed")
    def test_the_pdf_is_built_from_these_numbers(self):
        text = subprocess.run(["pdftotext", "-layout", ROOT / "codelet7.pdf", "-"],
                              capture_output=True, encoding="utf-8").stdout
        self.assertLessEqual(text.count("\f"), 4)  # pages
        for form, key, value in VALUES:
            value = value.replace("\\%", "%").replace("$-$", "\N{MINUS SIGN}")
            self.assertIn(value, text, (form, key))


class Experiments(TestCase):
    def test_train_the_same_model_as_the_run(self):
        self.put(self.raw, self.files)
        self.without_figures()
        settings = {name.lower(): getattr(experiments, name) for name in (
            "SEED", "BATCH_SIZE", "HIDDEN_DIMS", "SPARSITY_WEIGHT", "RHO")}  # may be edited
        settings |= {"epochs": 2, "lr": experiments.LEARNING_RATE}
        self.assertEqual(self.run_main(**settings)[0], 0)
        expected = torch.load(self.folder / "figures" / "trained" / "model.pt")
        data = draw_few()
        data = measures.Normalized(codelet7.normalize(data.images), data.labels,
                                   codelet7.normalize(data.test_images), data.test_labels)
        with (mock.patch.multiple(experiments, EPOCHS=2, LONG=3, LOOKS=[1]),
              contextlib.redirect_stdout(io.StringIO())):
            model, later, history, rows = experiments.train_curve(experiments.SEED, data)
        self.assertEqual((len(history), list(rows)), (2, [0, 1]))
        for name, weights in expected.items():
            self.assertTrue(torch.equal(model.state_dict()[name], weights), name)
            self.assertFalse(torch.equal(later.state_dict()[name], weights), name)

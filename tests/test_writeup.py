"""The PDF's numbers are those of results.json, and the README's are the same."""

import contextlib
import hashlib
import io
import json
import unittest
from unittest import mock

import torch

import codelet7
from tests import ROOT, TestCase, draw_few
from writeup import experiments, macros

TEX, MACROS, RESULTS = (ROOT / "writeup" / name
                        for name in ("codelet7.tex", "results.tex", "results.json"))


class Writeup(unittest.TestCase):
    def test_the_macros_are_those_of_the_results(self):
        results = json.loads(RESULTS.read_text("utf-8"))
        self.assertEqual(MACROS.read_text("utf-8"),
                         macros.macros(results, TEX.read_text("utf-8")))

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

    def test_the_readme_states_the_same_losses(self):
        losses = json.loads(RESULTS.read_text("utf-8"))["losses"]
        for loss in (losses["mine"]["first"], losses["mine"]["last"], losses["mine"]["test"],
                     losses["min"]["last"], losses["max"]["last"]):
            self.assertIn(f"{loss:.4f}", (ROOT / "README.md").read_text("utf-8"))

    def test_the_pdf_is_built_from_these_sources(self):
        pdf = (ROOT / "codelet7.pdf").read_bytes()
        for path in (TEX, MACROS):
            text = path.read_text("utf-8").encode()  # with git's line ends of any system
            self.assertIn(hashlib.md5(text).hexdigest().upper().encode(), pdf)


class Experiments(TestCase):
    def setUp(self):
        super().setUp()
        data = draw_few()
        self.data = data._replace(images=codelet7.normalize(data.images),
                                  test_images=codelet7.normalize(data.test_images))
        self.enterContext(mock.patch.object(experiments, "load", lambda: self.data))
        self.enterContext(mock.patch.object(experiments, "KEPT", self.folder / "runs"))

    def train(self, of_model, of_training, epochs=2):
        """The model of an experiment with these settings."""
        settings = {"name": ({0: epochs}, of_model, of_training)}
        with mock.patch.dict(experiments.RUNS, settings), \
                contextlib.redirect_stdout(io.StringIO()):
            experiments.run.cache_clear()
            return experiments.model_at("name", 0, epochs)

    def test_train_the_same_model_as_the_run(self):
        self.put(self.raw, self.files)
        self.without_figures()
        for of_model, of_training in (({}, {}), ({"sparsity_weight": 0.1},
                                                 {"weight_decay": 0.1, "lr": 1e-3})):
            settings = {"sparsity_weight": codelet7.SPARSITY_WEIGHT, "rho": codelet7.RHO,
                        "lr": codelet7.LEARNING_RATE, "batch_size": codelet7.BATCH_SIZE,
                        "hidden_dims": codelet7.HIDDEN_DIMS} | of_model | of_training
            self.assertEqual(self.run_main(epochs=2, **settings)[0], 0)
            expected = codelet7.load_model(self.folder / "figures" / "trained" / "model.pt")
            for again in range(2):  # trained, and kept
                model = self.train(of_model, of_training)
                for name, weights in expected.state_dict().items():
                    self.assertTrue(torch.equal(model.state_dict()[name], weights), name)

    def test_a_limit_and_the_decay_of_a_part(self):
        norms = self.train({}, {"lr": 0.01, "limit": 1.5}).decoder.weight.norm(dim=0)
        self.assertLessEqual(norms.max(), 1.5 + 1e-5)
        self.assertGreater(self.train({}, {"lr": 0.01}).decoder.weight.norm(dim=0).min(), 2)
        decayed = {part: self.train({}, {"lr": 0.01, "weight_decay": 0.1, "part": part})
                   for part in ("encoder", "decoder")}
        for part, other in (("encoder", "decoder"), ("decoder", "encoder")):
            self.assertLess(getattr(decayed[part], part).weight.norm(),
                            0.9 * getattr(decayed[other], part).weight.norm())

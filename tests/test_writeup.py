"""The PDF's numbers are those of results.json, and the README's are the same."""

import contextlib
import hashlib
import io
import json
import re
import shlex
import unittest
from unittest import mock

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

import codelet7
import utils
from extras import explorer
from tests import ROOT, TestCase
from writeup import experiments, macros, plots

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
            self.assertTrue(f"{loss:.4f}" in (ROOT / "README.md").read_text("utf-8"), loss)

    def test_the_pdf_is_built_from_these_sources(self):
        pdf = (ROOT / "codelet7.pdf").read_bytes()
        for path in (TEX, MACROS):
            text = path.read_text("utf-8").encode()  # with git's line ends of any system
            self.assertTrue(hashlib.md5(text).hexdigest().upper().encode() in pdf, path)


class Models(unittest.TestCase):
    def test_page_experiments_and_readme_show_the_same_models(self):
        def settings(command=""):
            args = codelet7.parse_args(shlex.split(command))
            return {"hDims": args.hidden_dims, "sparsity_weight": args.sparsity_weight,
                    "lr": args.lr, "weight_decay": args.weight_decay}

        readme = (ROOT / "README.md").read_text("utf-8")
        for name, recipe in explorer.MODELS.items():
            [command] = re.findall(rf"^\| {name.lower()}: .*codelet7\.py(.*)`", readme, re.M)
            _, of_model, of_training = experiments.RUNS[name.lower()]
            expected = settings(command)
            self.assertEqual(settings() | of_model | of_training, expected, name)
            self.assertEqual({key: getattr(recipe, key) for key in expected}, expected, name)


class Experiments(TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.multiple(
            experiments, load=lambda: self.data, KEPT=self.folder / "runs", BATCH_SIZE=64))

    def train(self, of_model, of_training, epochs=2, **others):
        """The model of an experiment with these settings, ten nodes and a rate of 0.01."""
        of_model = {"hDims": 10, "sparsity_weight": 1e-4, "rho": 0.05} | of_model
        settings = {"name": ({0: epochs}, of_model, {"lr": 0.01} | of_training)} | others
        with mock.patch.dict(experiments.RUNS, settings), \
                contextlib.redirect_stdout(io.StringIO()):
            experiments.run.cache_clear()
            return experiments.model_at("name", 0, epochs)

    def assertSame(self, model, other):
        for name, weights in other.state_dict().items():
            self.assertTrue(torch.equal(model.state_dict()[name], weights), name)

    def test_train_the_same_model_as_the_run(self):
        self.put(self.raw, self.files)
        self.without_figures()
        self.run_main(epochs=2, sparsity_weight=0.1, weight_decay=0.1, lr=1e-3)
        expected = codelet7.load_model(self.figures / "trained" / "model.pt")
        for _ in range(2):  # trained, and kept
            model = self.train({"sparsity_weight": 0.1}, {"weight_decay": 0.1, "lr": 1e-3})
            self.assertSame(model, expected)

    def test_limit_norm_and_decay_of_a_part(self):
        columns = lambda **options: self.train({}, options).decoder.weight.norm(dim=0)
        failed = experiments.new_model(0)
        with self.assertRaises(ValueError):
            experiments.train(failed, self.data, 0, 1, lr=-1.0, norm=9.0)
        free = columns()
        self.assertLess(failed.decoder.weight.norm(dim=0).max(), 8)  # its hook has gone
        self.assertGreater(free.min(), 2)
        self.assertLessEqual(columns(limit=1.5).max(), 1.5 + 1e-5)
        torch.testing.assert_close(columns(norm=5.0), torch.full((10,), 5.0))
        torch.testing.assert_close(columns(limit=50.0), free)  # no column is scaled up
        one, other = (self.train({}, {"weight_decay": 0.1, "part": part})
                      for part in ("encoder", "decoder"))
        self.assertLess(one.encoder.weight.norm(), 0.9 * other.encoder.weight.norm())
        self.assertLess(other.decoder.weight.norm(), 0.9 * one.decoder.weight.norm())

    def test_a_second_stage_goes_on_from_the_end_of_another_run(self):
        first = ({0: 1}, {"hDims": 10, "sparsity_weight": 1e-4, "rho": 0.05}, {"lr": 0.01})
        second = self.train({}, {"start": "first"}, epochs=1, first=first)
        changed = (first[0], first[1] | {"sparsity_weight": 0.5}, first[2])  # trains both anew
        third = self.train({}, {"start": "first"}, epochs=1, first=changed)
        self.assertFalse(torch.equal(third.encoder.weight, second.encoder.weight))
        model = self.train({}, {}, epochs=1)
        experiments.train(model, self.data, 0, 1, 0.01)
        self.assertSame(second, model)

    def test_variants_start_alike_and_decode_otherwise(self):
        plain, linear, winner = (experiments.new_model(0, hDims=3, variant=variant)
                                 for variant in (None, "linear", "winner"))
        self.assertSame(linear, plain)
        hidden = torch.tensor([[0.2, 0.9, 0.5], [0.7, 0.1, 0.6]])
        alone = torch.tensor([[0, 0.9, 0], [0.7, 0, 0]])
        torch.testing.assert_close(torch.tanh(linear.decode(hidden)), plain.decode(hidden))
        self.assertFalse(torch.equal(linear.decode(hidden), plain.decode(hidden)))
        torch.testing.assert_close(winner.decode(hidden), plain.decode(alone))

    def test_how_much_a_nearly_silent_node_draws(self):
        model = experiments.new_model(0, 2)
        model.encoder.weight.zero_()
        model.encoder.bias.copy_(torch.tensor([-20, 20]))  # the second node is not silent
        model.decoder.weight.copy_(torch.tensor([0.5, 9.0]).expand(784, 2))
        model.decoder.bias.fill_(-9)
        self.assertAlmostEqual(experiments.weak_drawing(model), np.tanh(0.05), places=5)

    def test_weak_share_at_a_test_error(self):
        rows = [{"mse": 0.8, "weak": 0.6}, {"mse": 0.6, "weak": 0.2}, {"mse": 0.5, "weak": 0.4}]
        self.assertAlmostEqual(experiments.weak_at_mse(rows, 0.55), 0.3)
        self.assertAlmostEqual(experiments.weak_at_mse(rows, 0.65), 0.3)


class Plots(TestCase):
    """What the PDF's figures show, read from their axes."""

    def draw(self, plot, *arguments):
        """The axes of a figure, and its texts."""
        with mock.patch.object(utils, "save") as save:
            plot(*arguments, self.folder / "figure.png")
        figure = save.call_args.args[0]
        return figure.axes, [text.get_text() for text in figure.findobj(Text)]

    def test_switch(self):
        shares = {("whispers", "whispers-limited"): [[0.0] + [0.5] * 20 + [0.1] * 20],
                  ("limited", "limited-freed"): [[0.0] + [0.2] * 20 + [0.7] * 20]}
        hidden = {name: torch.full((9, 10), value)
                  for name, value in (("blobs", 0.9), ("whispers", 0.11), ("limited", 0.6))}
        with mock.patch.multiple(plots, EPOCHS=20, WEAK=0.25), \
                mock.patch.object(codelet7, "WEAK", 0.25):
            (axes, *profiles), texts = self.draw(plots.plot_switch, shares, hidden)
        drawn = {(line.get_color(), line.get_xdata()[-1]): line.get_ydata()[-1]
                 for line in axes.lines if line.get_linestyle() == "-"}
        self.assertEqual(drawn, {(utils.ORANGE, 20): 0.5, (utils.BLUE, 40): 0.1,
                                 (utils.BLUE, 20): 0.2, (utils.ORANGE, 40): 0.7})
        for panel, place, weak, on in zip(profiles, (18, 2, 12), (0, 100, 0), (10, 0, 10)):
            self.assertEqual([bar.get_height() for bar in panel.patches],
                             [float(bar == place) for bar in range(20)])
            self.assertEqual([text.get_text() for text in panel.texts],
                             [f"{weak}% weak", f"{on:.1f} nodes on"])
            self.assertEqual([to_hex(bar.get_facecolor()) for bar in panel.patches],
                             [plots.PURPLE] * 5 + [utils.GREY] * 15)

    def test_tree(self):
        image = torch.zeros(784)
        leaf = lambda count, digit: {"mean": image + count / 10, "count": count,
                                     "digits": torch.eye(10)[digit] * count}
        axes, texts = self.draw(plots.plot_tree, {
            "mean": image, "count": 9, "digits": torch.ones(10), "asks": 4, "no": leaf(3, 1),
            "yes": leaf(6, 7)}, torch.rand(10, 784))
        self.assertTrue({"node 4?", "3\n100% 1s", "6\n100% 7s"} <= set(texts))
        left = {panel.images[0].get_array().max().item(): panel.get_position().x0
                for panel in axes if panel.images}
        no, yes = (utils.to_grey(torch.tensor(count / 10)).item() for count in (3, 6))
        lines = {line.get_color(): line.get_xdata()[-1] for line in axes[0].lines}
        self.assertTrue(left[no] < left[yes] and lines[utils.BLUE] < lines[utils.ORANGE])

    def test_kinds(self):
        models = [experiments.new_model(0, count) for count in (10, 10, 100)]
        image = torch.rand(1, 1, 28, 28)
        axes, texts = self.draw(plots.plot_kinds, models, image)
        self.assertTrue(set(plots.KINDS.values()) <= set(texts))
        for panel, model in zip((panel for panel in axes if panel.patches), models):
            np.testing.assert_allclose([bar.get_height() for bar in panel.patches],
                                       model.encode(image)[0], atol=1e-6)

    def test_shares_curve_and_node(self):
        shares, (weights, covariance) = torch.rand(10, 10), torch.rand(2, 784)
        (panel,), _ = self.draw(plots.plot_shares, shares)
        np.testing.assert_allclose(panel.images[0].get_array(), shares)
        self.assertEqual(panel.texts[37].get_text(), f"{100 * shares[3, 7]:.0f}")
        (upper, lower), _ = self.draw(plots.plot_curve, {
            0: {"mse": 0.6, "table": 0.5, "saturated": 0.1},
            20: {"mse": 0.55, "table": 0.52, "saturated": 0.3}}, 20)
        self.assertEqual([line.get_ydata()[-1] for line in (*upper.lines[::2], lower.lines[0])],
                         [0.55, 0.52, 0.3])
        axes, _ = self.draw(plots.plot_node, weights, covariance, torch.rand(8, 1, 28, 28))
        for panel, numbers in zip(axes, (weights, covariance)):
            np.testing.assert_allclose(panel.images[0].get_array().flatten(), numbers)

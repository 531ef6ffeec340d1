"""The command line: what it prints and writes, and its messages when something is wrong."""

import os
import runpy
import signal
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import matplotlib.text
import torch
from PIL import Image

import codelet7
import digits
import utils
from tests import ROOT, SETTINGS, TestCase, contents, flags, md5

WHOLE_STANDIN = digits.draw_standin  # TestCase sets a smaller one
NOTEBOOK = "module://matplotlib_inline.backend_inline"  # a notebook's MPLBACKEND
FIGURES = {"reconstruction.png", "nodes.png", "node_0.png", "node_1.png", "node_2.png"}


def names(folder):
    return {path.name for path in folder.iterdir()}


class Run(TestCase):
    def test_output_and_files_of_a_run_on_mnist(self):
        self.put(self.raw, self.files)
        with mock.patch.object(codelet7, "visualize", wraps=codelet7.visualize) as visualize:
            code, out, err = self.run_main(epochs=3, batch_size=100, hidden_dims=3)
        self.assertEqual((code, err), (0, ""))
        header, settings, *epochs, test, sparsity, _ = out.splitlines()
        self.assertEqual(header, "Data: MNIST, 1,000 training and 200 test images. Device: cpu.")
        self.assertEqual(settings, "MNIST: nodes 3, rho 0.05, penalty weight 0.0001, learning "
                                   "rate 0.0001, weight decay 0, batch size 100, epochs 3, seed 0.")
        for kind, call in zip(("untrained", "trained"), visualize.call_args_list, strict=True):
            model, shown, _, folder, title = call.args
            self.assertTrue(torch.equal(shown, self.data.images))
            self.assertEqual(folder, self.figures / kind)
            self.assertEqual(title, f"Training images, {kind} model. {settings}")
        test_images = self.data.test_images
        self.assertEqual(test, f"Test Loss: {codelet7.evaluate(model, test_images):.4f}")
        self.assertEqual(sparsity, f"Test images: {codelet7.describe(model, test_images)}")
        self.assertEqual(names(self.figures), {"batch.png", "untrained", "trained"})
        self.assertEqual(names(self.figures / "untrained"), FIGURES)
        trained = self.figures / "trained"
        self.assertEqual(names(trained), FIGURES | {"loss.png", "losses.csv", "model.pt"})
        for path in self.figures.rglob("*.png"):
            with Image.open(path) as image:
                self.assertGreaterEqual(image.info["dpi"][0], 150)
                self.assertNotIn("Software", image.info)  # the version would differ elsewhere
            self.assertLess(path.stat().st_size, 1_000_000)
        head, *rows = (trained / "losses.csv").read_text().splitlines()
        self.assertEqual((head, len(rows)), ("epoch,loss,mse,weighted_penalty", 3))
        for number, (row, line) in enumerate(zip(rows, epochs, strict=True), 1):
            self.assertRegex(line, rf"^Epoch: {number}/3 - Train Loss: \d\.\d{{4}}$")
            epoch, loss, mse, penalty = map(float, row.split(","))
            self.assertEqual(epoch, number)
            self.assertAlmostEqual(float(line.split()[-1]), loss, delta=5.1e-5)
            self.assertAlmostEqual(mse + penalty, loss, places=5)

    def titles(self, *arguments, **settings):
        """The words in each figure of a run."""
        with mock.patch.object(utils, "save") as save:
            code, _, err = self.run_main(*arguments, **settings)
        self.assertEqual(code, 0, err)
        texts = [call.args[0].findobj(matplotlib.text.Text) for call in save.call_args_list]
        return [" ".join(" ".join(text.get_text() for text in some).split()) for some in texts]

    def test_standin_run_is_labelled_and_keeps_mnist_figures(self):
        self.put(self.figures / "trained", {"nodes.png": b"MNIST's"})
        titles = self.titles(hidden_dims=3)  # neither MNIST nor a network
        self.assertEqual(len(titles), 2 * len(FIGURES) + 2)
        for title in titles:
            self.assertIn("stand-in digits (not MNIST): nodes 3, rho 0.05, ", title)
        self.assertEqual(names(self.figures), {"trained", "standin"})
        self.assertEqual((self.figures / "trained" / "nodes.png").read_bytes(), b"MNIST's")

    def model(self):
        """The checksum of the weights that the last run saved."""
        return contents(self.figures / "trained")["model.pt"]

    def test_constants_and_flags_are_equivalent(self):
        self.put(self.raw, self.files)
        settings = dict(epochs=2, batch_size=32, lr=0.002, hidden_dims=3, rho=0.1,
                        sparsity_weight=0.5, weight_decay=0.01, seed=7)
        constants = {name.upper().replace("LR", "LEARNING_RATE"): value
                     for name, value in settings.items()}
        models = []
        with mock.patch("tests.SETTINGS", {}):
            for edited, given in ((constants, {}), ({"EPOCHS": 20}, settings)):
                with mock.patch.multiple(codelet7, **edited):
                    titles = self.titles(**given)
                for title in titles:
                    self.assertIn("nodes 3, rho 0.1, penalty weight 0.5, learning rate 0.002, "
                                  "weight decay 0.01, batch size 32, epochs 2, seed 7.", title)
                models.append(self.model())
        self.assertEqual(*models)
        self.without_figures()
        for name in settings:  # each of them changes the model
            self.run_main(**{**settings, name: SETTINGS[name.replace("_", "-")]})
            self.assertNotEqual(models[0], self.model(), name)

    def test_home_is_expanded(self):
        with mock.patch.dict(os.environ, HOME="/my", USERPROFILE="/my", MNIST_ROOT="~/mnist"):
            for given, expected in (("~", "/my"), ("~nosuchuser", "~nosuchuser")):
                args = codelet7.parse_args([f"--figures-dir={given}/figures"])
                self.assertEqual((digits.default_root(), args.data_dir, args.figures_dir), (
                    Path("/my/mnist"), Path("/my/mnist"), Path(expected, "figures")))


class Host(TestCase):
    """main() in another process: a notebook's, a debugger's."""

    def test_uses_one_thread_and_on_an_interrupt_restores_the_count(self):
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())

        def run(_):
            self.assertEqual(torch.get_num_threads(), during)
            raise KeyboardInterrupt  # it reaches the host

        for variable, during in (("", 1), ("3", 3)):
            torch.set_num_threads(3)
            with mock.patch.dict(os.environ, OMP_NUM_THREADS=variable), \
                    mock.patch.object(codelet7, "run", run), self.assertRaises(KeyboardInterrupt):
                codelet7.main([])
            self.assertEqual(torch.get_num_threads(), 3)

    def test_main_ignores_the_hosts_arguments(self):
        with mock.patch.object(sys, "argv", ["kernel", "--epochs=7"]), \
                mock.patch.object(codelet7, "run") as run, mock.patch.object(codelet7, "EPOCHS", 3):
            codelet7.main()
        self.assertEqual(run.call_args.args[0].epochs, 3)

    def test_only_ipython_keeps_the_notebooks_backend(self):
        for modules, kept in (({"IPython": mock.Mock()}, True), ({}, False)):
            with mock.patch.dict(sys.modules, modules), \
                    mock.patch.dict(os.environ, MPLBACKEND=NOTEBOOK):
                runpy.run_path(str(ROOT / "utils.py"))
                self.assertEqual("MPLBACKEND" in os.environ, kept)


class Errors(TestCase):
    def test_invalid_flags(self):
        number = ["x", "", "nan", "inf", "-1"]
        whole = ["x", "1.5", "-1", "0", str(10**30)]
        for flag, values in {"--epochs": whole, "--batch-size": whole, "--hidden-dims": whole,
                             "--seed": ["x", "1.5", "-1", str(10**30)], "--lr": number,
                             "--sparsity-weight": number, "--weight-decay": number,
                             "--rho": [*number, "0", "1"], "--ep": ["3"],
                             "--device": ["gpu" if torch.cuda.is_available() else "cuda"]}.items():
            for value in values:
                self.assertFails(2, [flag], f"{flag}={value}")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_invalid_constants(self):
        for name, value in {"EPOCHS": 2.5, "BATCH_SIZE": 0, "HIDDEN_DIMS": 10.0, "RHO": 5,
                            "SEED": -1, "LEARNING_RATE": "a", "SPARSITY_WEIGHT": -1,
                            "WEIGHT_DECAY": -1}.items():
            with mock.patch("tests.SETTINGS", {}), mock.patch.object(codelet7, name, value):
                self.assertFails(2, [str(value)])

    def test_unwritable_paths_fail_before_training(self):
        self.put(self.folder, {"file": b"mine"})
        file = str(self.folder / "file")
        with mock.patch.object(codelet7, "load_data") as load:  # a download takes long
            self.assertFails(1, [file], f"--figures-dir={file}/inside")
        load.assert_not_called()
        for name in ("untrained/nodes.png", "trained/model.pt", "trained/losses.csv"):
            path = self.figures / "standin" / name
            path.mkdir(parents=True)
            with mock.patch.object(codelet7, "train") as train:
                self.assertFails(1, [str(path)], "--dataset=standin")
            train.assert_not_called()
            path.rmdir()

    def test_a_full_disk_names_the_file_and_leaves_no_part_of_it(self):
        trained = self.figures / "standin" / "trained"
        self.put(trained, {"losses.csv": b"the last run's"})
        self.without_figures()
        for before, name in enumerate(("batch.png", "model.pt", "losses.csv")):
            effects = [None] * before + [OSError(28, "No space left on device")]
            with mock.patch.object(Path, "replace", side_effect=effects):
                self.assertFails(1, ["No space left on device", name], "--dataset=standin")
        self.assertEqual(contents(trained), md5({"losses.csv": b"the last run's"}))

    def test_what_is_not_a_model_is_named(self):
        model, path = codelet7.new_model(0, 3), self.folder / "model.pt"
        codelet7.save_model(model, path)
        whole, state = path.read_bytes(), model.state_dict()
        others = [b"", b"<html>", whole[:len(whole) // 2]]
        for wrong in (model, {"model": state}, 7, codelet7.SparseAutoencoder(9, 3).state_dict()):
            torch.save(wrong, path)
            others.append(path.read_bytes())
        for data in others:
            path.write_bytes(data)
            with self.assertRaisesRegex(digits.DataError, f"^{path} is not a model"):
                codelet7.load_model(path)
        path.unlink()
        with self.assertRaisesRegex(FileNotFoundError, str(path)):
            codelet7.load_model(path)

    def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_trained_figures(self):
        self.without_figures()
        for settings, *words in ((dict(lr=1e38, epochs=5), "in epoch", "--lr"),
                                 (dict(sparsity_weight=1e38), "in epoch 1", "--sparsity-weight"),
                                 (dict(weight_decay=1e300), "in epoch 1", "--weight-decay"),
                                 (dict(lr=3e38, batch_size=1000), "after the last step")):
            self.assertFails(1, ["the loss is", *words], "--dataset=standin", **settings)
        drawn = {call.args[3].name for call in codelet7.visualize.call_args_list}
        self.assertEqual((drawn, names(self.figures / "standin/trained")), ({"untrained"}, set()))


@unittest.skipIf(os.name == "nt", "Windows has other signals and streams")
class Process(TestCase):
    """A run as a process of its own: its streams, its environment, its end."""

    def start(self, *arguments, **options):
        command = [sys.executable, ROOT / "codelet7.py", "--dataset=standin",
                   f"--figures-dir={self.figures}", *flags(hidden_dims=1), *arguments]
        return subprocess.Popen(command, text=True, cwd=self.folder, **{
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)

    def test_output_does_not_depend_on_environment(self):
        self.put(self.folder, {"matplotlibrc": b"font.size: 30\nsavefig.bbox: tight\n"})
        here, there = (self.folder / name for name in ("here", "\N{GREEK SMALL LETTER ALPHA}"))
        environment = os.environ | {"PYTHONIOENCODING": "cp1252", "MPLBACKEND": NOTEBOOK}
        environment.pop("DISPLAY", None)
        process = self.start(f"--figures-dir={there}", env=environment)
        out, err = process.communicate(timeout=600)
        self.assertEqual((process.returncode, err), (0, ""))
        self.assertIn(r"\u03b1", out)
        with mock.patch("digits.draw_standin", WHOLE_STANDIN):
            _, expected, _ = self.run_main("--dataset=standin", f"--figures-dir={here}",
                                           hidden_dims=1)
        self.assertEqual(out.splitlines()[:-1], expected.splitlines()[:-1])
        self.assertEqual(contents(there), contents(here))

    def test_ctrl_c(self):
        process = self.start("--epochs=1000000", preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL))  # a script's background passes on that it is ignored
        try:
            process.stdout.readline()  # it has begun
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
        self.assertEqual((process.returncode, err.strip()), (130, "codelet7.py: interrupted"))

"""The command line: what it prints and writes, and what it says when something is wrong."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

import matplotlib.text
import torch
from PIL import Image

import codelet7
import digits
import utils
from tests import ROOT, TestCase, flags

WHOLE_STANDIN, EDITED_RHO = digits.draw_standin, codelet7.RHO  # TestCase sets others
FIGURES = {"reconstruction.png", "nodes.png", "node_0.png", "node_1.png", "node_2.png"}  # of 3


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


class Run(TestCase):
    def setUp(self):
        super().setUp()
        self.figures = self.folder / "figures"

    def test_prints_and_files_of_a_run_on_mnist(self):
        self.put(self.raw, self.files)
        code, out, err = self.run_main(epochs=3, batch_size=100, hidden_dims=3)
        self.assertEqual((code, err), (0, ""))
        header, settings, *epochs, test, figures = out.splitlines()
        self.assertEqual(header, "Data: MNIST, 1,000 training and 200 test images. Device: cpu.")
        self.assertEqual(settings, "MNIST: nodes 3, rho 0.05, penalty weight 0.0001, "
                                   "learning rate 0.0001, batch size 100, epochs 3, seed 0.")
        self.assertEqual(len(epochs), 3)
        for number, line in enumerate(epochs, 1):
            self.assertRegex(line, rf"^Epoch: {number}/3 - Train Loss: \d\.\d{{4}}$")
        self.assertRegex(test, r"^Test Loss: \d\.\d{4}$")
        self.assertEqual(names(self.figures), {"batch.png", "untrained", "trained"})
        self.assertEqual(names(self.figures / "untrained"), FIGURES)
        trained = self.figures / "trained"
        self.assertEqual(names(trained), FIGURES | {"loss.png", "losses.csv", "model.pt"})
        for path in self.figures.rglob("*.png"):
            with Image.open(path) as image:
                image.verify()
                self.assertGreaterEqual(image.info["dpi"][0], 150)
            self.assertLess(path.stat().st_size, 1_000_000)
        rows = [line.split(",") for line in (trained / "losses.csv").read_text().splitlines()]
        self.assertEqual(rows[0], ["epoch", "loss", "mse", "weighted_penalty"])
        for (epoch, loss, mse, penalty), line in zip(rows[1:], epochs):
            self.assertTrue(line.startswith(f"Epoch: {epoch}/3 "))
            self.assertAlmostEqual(float(line.split()[-1]), float(loss), delta=5.1e-5)
            self.assertAlmostEqual(float(mse) + float(penalty), float(loss), places=5)

    def titles(self, *arguments, **settings):
        """The words in each figure of a run, and what it says on stderr."""
        with mock.patch.object(utils, "save") as save:
            code, _, err = self.run_main(*arguments, **settings)
        self.assertEqual(code, 0, err)
        texts = [[text.get_text() for text in call.args[0].findobj(matplotlib.text.Text)]
                 for call in save.call_args_list]
        return [" ".join(" ".join(words).split()) for words in texts], err

    def test_a_stand_in_run_cannot_be_mistaken_and_leaves_mnists_figures_alone(self):
        self.put(self.figures / "trained", {"nodes.png": b"MNIST's"})
        titles, err = self.titles(hidden_dims=3)  # neither MNIST nor a network
        self.assertIn(f"There is no MNIST in {self.raw}", err)
        self.assertIn("stand-in", err)
        self.assertEqual(len(titles), 2 * len(FIGURES) + 2)
        for title in titles:
            self.assertIn("stand-in digits (not MNIST): nodes 3, rho 0.05, penalty weight 0.0001, "
                          "learning rate 0.0001, batch size 64, epochs 1, seed 0.", title)
        self.assertEqual(names(self.figures), {"trained", "standin"})
        self.assertEqual((self.figures / "trained" / "nodes.png").read_bytes(), b"MNIST's")

    def test_constants_edited_by_hand_work_as_their_flags_and_show_in_every_title(self):
        self.put(self.raw, self.files)
        settings = dict(epochs=2, batch_size=32, lr=0.002, hidden_dims=3, sparsity_weight=0.5,
                        seed=7)
        constants = dict(EPOCHS=2, BATCH_SIZE=32, LEARNING_RATE=0.002, HIDDEN_DIMS=3,
                         SPARSITY_WEIGHT=0.5, SEED=7)
        models = []
        with mock.patch("tests.SETTINGS", {}):
            for edited, given in ((constants, {}), ({}, settings)):
                with mock.patch.multiple(codelet7, RHO=0.1, **edited):
                    titles, _ = self.titles(**given)
                for title in titles:
                    self.assertIn("MNIST: nodes 3, rho 0.1, penalty weight 0.5, learning rate "
                                  "0.002, batch size 32, epochs 2, seed 7.", title)
                models.append(torch.load(self.figures / "trained" / "model.pt"))
        for name, weights in models[0].items():
            self.assertTrue(torch.equal(weights, models[1][name]))
        self.assertEqual(models[0]["encoder.weight"].shape, (3, 784))

    def test_home_is_expanded(self):
        os.environ |= {"HOME": "/my", "USERPROFILE": "/my", "MNIST_ROOT": "~/mnist"}
        args = codelet7.parse_args(["--figures-dir", "~/pictures"])
        self.assertEqual((args.data_dir, args.figures_dir), (Path("/my/mnist"),
                                                            Path("/my/pictures")))


class Host(TestCase):
    """main() in a process that is not ours: a notebook's, a debugger's."""

    def setUp(self):
        super().setUp()
        self.without_figures()

    def test_it_takes_one_thread_unless_told_otherwise_and_puts_the_number_back(self):
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        for variable, during in (("", 1), ("3", 3)):
            os.environ["OMP_NUM_THREADS"] = variable
            torch.set_num_threads(3)
            with mock.patch.object(codelet7, "run",
                                   side_effect=lambda _: seen.append(torch.get_num_threads())):
                seen = []
                codelet7.main([])
            self.assertEqual((seen, torch.get_num_threads()), ([during], 3))

    def test_stop_is_the_hosts_own_affair(self):
        handler = signal.getsignal(signal.SIGINT)
        with mock.patch.object(codelet7, "train", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.run_main("--dataset=standin")
        self.assertIs(signal.getsignal(signal.SIGINT), handler)

    def test_the_hosts_arguments_are_not_ours(self):
        with mock.patch.object(sys, "argv", ["kernel", "--epochs=7"]), \
                mock.patch.object(codelet7, "run") as run, mock.patch.object(codelet7, "EPOCHS", 3):
            codelet7.main()
        self.assertEqual(run.call_args.args[0].epochs, 3)

    def test_under_ipython_its_backend_stays(self):
        os.environ["MPLBACKEND"] = "agg"
        for modules, kept in (({"IPython": types.ModuleType("IPython")}, True), ({}, False)):
            with mock.patch.dict(sys.modules, modules), \
                    mock.patch.object(sys, "argv", ["codelet7.py", "--epochs=0"]), \
                    mock.patch("sys.stderr"), self.assertRaises(SystemExit):
                runpy.run_path(str(ROOT / "codelet7.py"), run_name="__main__")
            self.assertEqual("MPLBACKEND" in os.environ, kept)


class Trouble(TestCase):
    def test_flags_that_cannot_be(self):
        number = ["x", "", "nan", "inf", "-1"]
        whole = ["x", "1.5", "-1", "1e3", "9" * 5000, str(10**30)]
        for flag, values in {"--epochs": [*whole, "0"], "--batch-size": [*whole, "0"],
                             "--lr": [*number, "0"], "--hidden-dims": [*whole, "0", str(10**19)],
                             "--sparsity-weight": number, "--seed": whole, "--dataset": ["cifar"],
                             "--device": ["gpu"]}.items():
            for value in values:
                with self.subTest(flag=flag, value=value[:20]):
                    self.assertFails(2, [flag], f"{flag}={value}")
        for shortened in ("--f=/tmp/kernel.json", "--e=3", "--hi=4"):
            self.assertFails(2, [shortened], shortened)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_constants_that_cannot_be(self):
        for name, values in {"EPOCHS": [0, 2.5], "BATCH_SIZE": [0], "HIDDEN_DIMS": [0, 10.0],
                             "LEARNING_RATE": [0], "MAX_NODE_FIGURES": [0],
                             "SPARSITY_WEIGHT": [-1], "SEED": [-1],
                             "RHO": [0, 1, 5, -0.05]}.items():
            for value in values:
                with self.subTest(name=name, value=value), mock.patch("tests.SETTINGS", {}), \
                        mock.patch.object(codelet7, name, value):
                    self.assertFails(2, [str(value)])

    @unittest.skipIf(torch.cuda.is_available(), "there is a GPU")
    def test_a_gpu_that_is_not_there(self):
        self.assertFails(2, ["--device", "GPU"], "--device=cuda")

    def test_what_cannot_be_made_or_written_is_named_before_the_training(self):
        self.put(self.folder, {"file": b"mine"})
        for blocked in ("figures/standin/batch.png", "figures/standin/untrained/nodes.png"):
            (self.folder / blocked).mkdir(parents=True)
        with mock.patch.object(codelet7, "train") as train, \
                mock.patch.object(codelet7, "load_data") as load:  # a download is long
            for path in (self.folder / "file", self.folder / "file" / "inside"):
                self.assertFails(1, [str(self.folder / "file")], f"--figures-dir={path}")
            load.assert_not_called()
        for blocked in ("batch.png", "untrained/nodes.png"):
            path = self.folder / "figures" / "standin" / blocked
            with mock.patch.object(codelet7, "train") as train:
                self.assertFails(1, [str(path)], "--dataset=standin")
            train.assert_not_called()
            path.rmdir()

    @unittest.skipIf(os.name == "nt", "Windows has neither")
    def test_a_closed_pipe_and_a_full_disk_under_standard_output_are_named(self):
        reader, closed_pipe = os.pipe()
        os.close(reader)
        for output in (closed_pipe, os.open("/dev/full", os.O_WRONLY)):
            stream = os.fdopen(output, "w")
            with contextlib.redirect_stdout(stream), \
                    self.assertRaisesRegex(SystemExit, "error: .*standard output"):
                codelet7.main(["--dataset=standin", f"--figures-dir={self.folder}", *flags()])
            with contextlib.suppress(OSError):
                stream.close()

    def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(self):
        self.put(self.folder, {"old": b"old"})
        with mock.patch("pathlib.Path.replace", side_effect=OSError(28, "No space left")), \
                self.assertRaisesRegex(OSError, "No space left: .*old"):
            utils.write_whole(self.folder / "old", b"new")
        self.assertEqual(contents(self.folder), {Path("old"): b"old"})

    def test_a_loss_that_is_not_finite_ends_the_run_and_the_trained_figures_stay(self):
        self.put(self.folder / "figures" / "standin" / "trained", {"nodes.png": b"the last run's"})
        self.without_figures()
        codelet7.visualize.side_effect = lambda *args: (args[3] / "nodes.png").write_text("drawn")
        for settings, epoch in ((dict(lr=1e38, epochs=5), "in epoch"),
                                (dict(sparsity_weight=1e38), "in epoch 1"),
                                (dict(lr=3e38, batch_size=1000), "after the last step")):
            self.assertFails(1, ["the loss is", epoch, "--lr"], "--dataset=standin", **settings)
        trained = self.folder / "figures" / "standin" / "trained"
        self.assertEqual(contents(trained), {Path("nodes.png"): b"the last run's"})

    def test_out_of_memory(self):
        for nodes in (10**13, 10**16):
            self.assertFails(1, ["out of memory", "--batch-size", "--hidden-dims"],
                             "--dataset=standin", hidden_dims=nodes)

    def test_mistakes_of_ours_keep_their_traceback(self):
        with mock.patch.object(codelet7, "run", side_effect=RuntimeError("shapes differ")), \
                self.assertRaises(RuntimeError):
            codelet7.main([])


@unittest.skipIf(os.name == "nt", "signals, pipes and limits of this kind are not Windows's")
class Process(TestCase):
    """A run as a process of its own: its streams, its environment, its end."""

    def start(self, *arguments, **options):
        command = [sys.executable, ROOT / "codelet7.py", "--dataset=standin",
                   f"--figures-dir={self.folder / 'figures'}", *flags(hidden_dims=1), *arguments]
        return subprocess.Popen(command, text=True, cwd=self.folder, **{
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)

    def test_where_it_runs_makes_no_difference_and_two_runs_are_the_same_to_the_byte(self):
        self.put(self.folder, {"matplotlibrc": b"font.size: 30\nsavefig.bbox: tight\n"})
        here, there = (self.folder / name for name in ("here", "\N{GREEK SMALL LETTER ALPHA}"))
        odd = {"PYTHONIOENCODING": "cp1252", "MPLBACKEND": "nonsense"}
        os.environ.pop("DISPLAY", None)
        process = self.start(f"--figures-dir={there}", env=os.environ | odd)
        out, err = process.communicate(timeout=600)
        self.assertEqual((process.returncode, err), (0, ""))
        self.assertIn(r"\u03b1", out)
        with mock.patch("digits.draw_standin", WHOLE_STANDIN), \
                mock.patch.object(codelet7, "RHO", EDITED_RHO):
            _, expected, _ = self.run_main("--dataset=standin", f"--figures-dir={here}",
                                           hidden_dims=1)
        self.assertEqual(out.splitlines()[:-1], expected.splitlines()[:-1])
        self.assertEqual(len(contents(there)), 2 * 3 + 4)  # with a single node
        for path, data in contents(here).items():
            self.assertEqual(contents(there)[path], data, path)

    def test_ctrl_c(self):
        process = self.start("--epochs=1000000")
        try:
            process.stdout.readline()  # it has begun
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
        self.assertEqual((process.returncode, err.strip()), (130, "codelet7.py: interrupted"))

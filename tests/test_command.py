"""The command line: what it prints and writes, and what it says when something is wrong."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

import torch
from PIL import Image

import codelet7
import utils
from tests import ROOT, TestCase

FIGURES = {"reconstruction.png", "nodes.png", *(f"node_{node}.png" for node in range(10))}


class Run(TestCase):
    def test_prints_and_figures_of_a_run_on_mnist(self):
        self.write_mnist()
        code, out, err = self.run_main("--epochs", "3", "--batch-size", "100")
        self.assertEqual((code, err), (0, ""))
        header, *epochs, test, figures = out.splitlines()
        self.assertEqual(header, "Data: MNIST, 1,000 training and 200 test images. Device: cpu. Seed: 0.")
        self.assertEqual(len(epochs), 3)
        for number, line in enumerate(epochs, 1):
            self.assertRegex(line, rf"^Epoch: {number}/3 - Train Loss: \d\.\d{{4}}$")
        self.assertRegex(test, r"^Test Loss: \d\.\d{4}$")
        folder = self.folder / "figures"
        self.assertEqual({path.name for path in folder.iterdir()}, {"batch.png", "untrained", "trained"})
        self.assertEqual({path.name for path in (folder / "untrained").iterdir()}, FIGURES)
        self.assertEqual({path.name for path in (folder / "trained").iterdir()}, FIGURES | {"loss.png", "losses.csv"})
        for path in folder.rglob("*.png"):
            with Image.open(path) as image:
                image.verify()
                self.assertGreaterEqual(image.info["dpi"][0], 150)
            self.assertLess(path.stat().st_size, 1_000_000)
        rows = [line.split(",") for line in (folder / "trained" / "losses.csv").read_text().splitlines()]
        self.assertEqual(rows[0], ["epoch", "loss", "mse", "weighted_penalty"])
        for (epoch, loss, mse, penalty), line in zip(rows[1:], epochs):
            self.assertTrue(line.startswith(f"Epoch: {epoch}/3 "))
            self.assertAlmostEqual(float(line.split()[-1]), float(loss), delta=5.1e-5)
            self.assertAlmostEqual(float(mse) + float(penalty), float(loss), places=5)

    def test_two_runs_are_the_same_to_the_byte(self):
        runs = []
        for name in ("one", "two"):
            out = self.run_main("--dataset", "standin", "--epochs", "1", "--figures-dir", str(self.folder / name))[1]
            files = {path.relative_to(self.folder / name): path.read_bytes()
                     for path in (self.folder / name).rglob("*") if path.is_file()}
            runs.append((out.replace(name, ""), files))
        self.assertEqual(len(runs[0][1]), 2 * len(FIGURES) + 3)
        self.assertEqual(*runs)

    def test_a_stand_in_run_cannot_be_mistaken_and_leaves_mnists_figures_alone(self):
        for folder in ("untrained", "trained"):
            (self.folder / "figures" / folder).mkdir(parents=True)
            (self.folder / "figures" / folder / "nodes.png").write_text("MNIST's")
        titles = []
        real_show, real_nodes, real_losses = codelet7.show, utils.plot_nodes, utils.save_losses
        with mock.patch.object(codelet7, "show", lambda *a: (titles.append(a[2]), real_show(*a))), \
                mock.patch.object(utils, "plot_nodes", lambda **k: (titles.append(k["title"]), real_nodes(**k))), \
                mock.patch.object(utils, "save_losses", lambda *a: (titles.append(a[2]), real_losses(*a))):
            code, out, err = self.run_main("--epochs", "1")  # neither MNIST nor a network
        self.assertEqual(code, 0)
        self.assertIn("stand-in", err)
        self.assertTrue(out.startswith("Data: stand-in digits (not MNIST), "))
        self.assertEqual(len(titles), 2 * len(FIGURES) + 2)
        for title in titles:
            self.assertIn("stand-in digits (not MNIST)", title)
        self.assertEqual({path.name for path in (self.folder / "figures").iterdir()}, {"untrained", "trained", "standin"})
        for folder in ("untrained", "trained"):
            self.assertEqual((self.folder / "figures" / folder / "nodes.png").read_text(), "MNIST's")
            self.assertLessEqual(FIGURES, {path.name for path in (self.folder / "figures" / "standin" / folder).iterdir()})

    def test_the_flags_reach_the_training(self):
        with mock.patch.object(codelet7, "train", return_value=[(0.5, 0.4)]) as train:
            self.run_main("--dataset", "standin", "--epochs", "7", "--batch-size", "50", "--lr", "0.5",
                          "--hidden-dims", "4", "--sparsity-weight", "0", "--seed", "9")
        model, loader, *rest = train.call_args.args
        self.assertEqual(rest, [7, 0.5, 0.0])
        self.assertEqual(model.encoder.weight.shape, (4, 784))
        self.assertEqual(len(next(iter(loader))[0]), 50)
        torch.manual_seed(9)
        self.assertTrue(torch.equal(model.encoder.weight, codelet7.SparseAutoencoder(784, 4).encoder.weight))

    def test_titles_name_the_settings_that_are_not_the_defaults(self):
        with mock.patch.object(codelet7, "visualize") as visualize, mock.patch.object(codelet7, "train", return_value=[(0.5, 0.4)]):
            self.run_main("--dataset", "standin", "--lr", "0.01", "--seed", "3", "--epochs", "1")
        self.assertEqual([call.args[-1] for call in visualize.call_args_list],
                         [f"stand-in digits (not MNIST), --lr 0.01, --seed 3, {when}." for when in ("before training", "after 1 epoch")])

    @unittest.skipIf(os.name == "nt", "no pipes to break on Windows")
    def test_a_reader_that_leaves_early_is_no_error(self):
        command = [sys.executable, "codelet7.py", "--dataset", "standin", "--epochs", "2", "--figures-dir", str(self.folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual((process.stderr.read(), process.wait(60)), ("", 1))
        process.stderr.close()

    def test_help_states_every_default(self):
        code, out, _ = self.run_main("--help")
        self.assertEqual(code, 0)
        for flag, default in (("epochs", "20"), ("batch-size", "64"), ("lr", "0.0001"), ("hidden-dims", "10"),
                              ("sparsity-weight", "0.0001"), ("seed", "0"), ("data-dir", "data"), ("dataset", "auto"),
                              ("figures-dir", "figures"), ("device", "c(pu|uda)")):
            text = out[out.index("options:"):].split(f"--{flag} ")[1].split(" --")[0]
            self.assertRegex(" ".join(text.split()), rf"\(default: {default}\)$")

    def test_importing_trains_nothing(self):
        code = "import codelet7; print(callable(codelet7.main))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ("True\n", ""))


class BadInput(TestCase):
    def test_bad_flags_are_refused_before_anything_happens(self):
        whole, number = ["x", "", "1.5", "nan", "inf", "-1", "1e3", "9" * 5000], ["x", "", "nan", "inf", "-inf", "-1"]
        for flag, values in {"--epochs": [*whole, "0"], "--batch-size": [*whole, "0", "60001"], "--lr": [*number, "0"],
                             "--hidden-dims": [*whole, "0", "10001"], "--sparsity-weight": number,
                             "--seed": [*whole, str(2**63)], "--dataset": ["cifar"], "--device": ["cuda:99", "gpu", "meta", ""]}.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    self.assertFails(2, [flag], f"{flag}={value}")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_folders_that_are_files_or_cannot_be_written(self):
        self.write_mnist()
        (self.folder / "file").write_text("mine")
        for path in (self.folder / "file", self.folder / "file" / "inside"):
            with mock.patch("digits.load") as load:  # a download can take long: the figures' folder is checked first
                self.assertFails(2, ["--figures-dir", str(self.folder / "file")], "--figures-dir", str(path))
            load.assert_not_called()
            self.assertFails(2, ["--data-dir", str(self.folder / "file")], "--data-dir", str(path))
        denied = PermissionError(13, "Permission denied", "/somewhere")
        with mock.patch("tempfile.TemporaryFile", side_effect=denied):
            self.assertFails(2, ["--figures-dir", "/somewhere", "Permission denied"])
        with mock.patch("tempfile.TemporaryDirectory", side_effect=denied):
            self.assertFails(2, ["--data-dir", "/somewhere", "Permission denied"], "--data-dir", str(self.folder / "new"))
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_the_kinds_folder_too_is_checked_before_training(self):
        (self.folder / "figures").mkdir()
        (self.folder / "figures" / "standin").write_text("mine")
        with mock.patch.object(codelet7, "train") as train:
            code, _, err = self.run_main("--dataset", "standin")
        self.assertEqual((code, train.called), (2, False))
        self.assertIn("--figures-dir", err)

    def test_read_only_mnist_is_enough(self):
        self.write_mnist()
        with mock.patch("tempfile.TemporaryDirectory", side_effect=PermissionError(13, "Permission denied", "/data")), \
                mock.patch.object(codelet7, "visualize"):
            self.assertEqual(self.run_main("--epochs", "1")[0], 0)

    def test_a_loss_that_is_not_finite_ends_the_run(self):
        with mock.patch.object(codelet7, "visualize"):
            for flags in (["--lr", "1e38"], ["--sparsity-weight", "1e38"]):
                code, out, err = self.run_main("--dataset", "standin", "--epochs", "20", *flags)
                self.assertEqual(code, 1)
                self.assertRegex(err, r"^codelet7\.py: error: the loss is (nan|inf) in epoch \d+: .*--lr.*\n$")
                self.assertNotRegex(out, "nan|inf")


class Interruption(unittest.TestCase):
    """Ctrl-C is sent to a process of its own: while it imports torch, and while it trains."""

    def interrupt(self, ready):
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, "codelet7.py", "--dataset", "standin", "--epochs", "100000", "--figures-dir", folder],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                ready(process)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
            finally:
                process.kill()
            self.assertEqual(process.returncode, 130, err)
            self.assertEqual(err.strip(), "codelet7.py: interrupted")
            for directory, _, files in os.walk(folder):
                for name in files:
                    with Image.open(os.path.join(directory, name)) as image:
                        image.verify()

    @unittest.skipIf(os.name == "nt", "Windows has no SIGINT to send")
    def test_while_training(self):
        def trains(process):
            for line in process.stdout:
                if re.match("Epoch: 1/", line):
                    return
        self.interrupt(trains)

    @unittest.skipIf(os.name == "nt", "Windows has no SIGINT to send")
    def test_while_importing(self):
        self.interrupt(lambda process: time.sleep(1))

"""The command line: what it prints and writes, and what it says when something is wrong."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

import codelet7
import commandline
import utils
from tests import ROOT, TestCase

NODES = {f"node_{node}.png" for node in range(10)}
FIGURES = {"reconstruction.png", "nodes.png", *NODES}
SETTINGS = ("nodes 10, rho 0.05, penalty weight 0.0001, learning rate 0.0001, batch size 64, "
            "epochs 1, seed 0.")


def names(folder):
    return {path.name for path in folder.iterdir()}


def python(*arguments, **options):
    """A new Python process in the project's root, without this one's own notions of a run."""
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True,
                            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)


class Run(TestCase):
    def test_prints_and_figures_of_a_run_on_mnist(self):
        self.write_mnist()
        code, out, err = self.run_main("--epochs", "3", "--batch-size", "100")
        self.assertEqual((code, err), (0, ""))
        header, settings, *epochs, test, figures = out.splitlines()
        self.assertEqual(header, "Data: MNIST, 1,000 training and 200 test images. Device: cpu.")
        self.assertEqual(settings, "MNIST: nodes 10, rho 0.05, penalty weight 0.0001, "
                                   "learning rate 0.0001, batch size 100, epochs 3, seed 0.")
        self.assertEqual(len(epochs), 3)
        for number, line in enumerate(epochs, 1):
            self.assertRegex(line, rf"^Epoch: {number}/3 - Train Loss: \d\.\d{{4}}$")
        self.assertRegex(test, r"^Test Loss: \d\.\d{4}$")
        folder = self.folder / "figures"
        self.assertEqual(names(folder), {"batch.png", "untrained", "trained"})
        self.assertEqual(names(folder / "untrained"), FIGURES)
        self.assertEqual(names(folder / "trained"), FIGURES | {"loss.png", "losses.csv"})
        for path in folder.rglob("*.png"):
            with Image.open(path) as image:
                image.verify()
                self.assertGreaterEqual(image.info["dpi"][0], 150)
            self.assertLess(path.stat().st_size, 1_000_000)
        table = (folder / "trained" / "losses.csv").read_text().splitlines()
        rows = [line.split(",") for line in table]
        self.assertEqual(rows[0], ["epoch", "loss", "mse", "weighted_penalty"])
        for (epoch, loss, mse, penalty), line in zip(rows[1:], epochs):
            self.assertTrue(line.startswith(f"Epoch: {epoch}/3 "))
            self.assertAlmostEqual(float(line.split()[-1]), float(loss), delta=5.1e-5)
            self.assertAlmostEqual(float(mse) + float(penalty), float(loss), places=5)

    def test_two_runs_are_the_same_to_the_byte(self):
        runs = []
        for name in ("one", "two"):
            folder = self.folder / name
            _, out, _ = self.run_main("--dataset", "standin", "--epochs", "1",
                                      "--figures-dir", str(folder))
            files = {path.relative_to(folder): path.read_bytes()
                     for path in folder.rglob("*") if path.is_file()}
            runs.append((out.replace(name, ""), files))
        self.assertEqual(len(runs[0][1]), 2 * len(FIGURES) + 3)
        self.assertEqual(*runs)

    def titles(self, *arguments):
        """The titles of all the figures of a run."""
        spies = {name: self.enterContext(
            mock.patch.object(codelet7, name, side_effect=getattr(codelet7, name)))
            for name in ("show", "save_losses", "plot_nodes")}
        code, _, err = self.run_main(*arguments)
        self.assertEqual(code, 0, err)
        titles = [call.args[-1 if name == "plot_nodes" else 2]
                  for name, spy in spies.items() for call in spy.call_args_list]
        self.assertEqual(len(titles), 2 * len(FIGURES) + 2)
        return titles, err

    def test_a_stand_in_run_cannot_be_mistaken_and_leaves_mnists_figures_alone(self):
        figures = self.folder / "figures"
        for folder in ("untrained", "trained"):
            (figures / folder).mkdir(parents=True)
            (figures / folder / "nodes.png").write_text("MNIST's")
        titles, err = self.titles("--epochs", "1")  # neither MNIST nor a network
        self.assertIn("stand-in", err)
        for title in titles:
            self.assertIn(f"stand-in digits (not MNIST): {SETTINGS}", title)
        self.assertEqual(names(figures), {"untrained", "trained", "standin"})
        for folder in ("untrained", "trained"):
            self.assertEqual((figures / folder / "nodes.png").read_text(), "MNIST's")
            self.assertLessEqual(FIGURES, names(figures / "standin" / folder))

    def test_titles_state_every_setting_of_constants_changed_by_hand_too(self):
        self.write_mnist()
        with mock.patch.multiple(codelet7, EPOCHS=1, HIDDEN_DIMS=10, RHO=0.1, SPARSITY_WEIGHT=0.5,
                                 LEARNING_RATE=0.002, BATCH_SIZE=32, SEED=7):
            titles, _ = self.titles()
        for title in titles:
            self.assertIn("MNIST: nodes 10, rho 0.1, penalty weight 0.5, learning rate 0.002, "
                          "batch size 32, epochs 1, seed 7.", title)

    def references(self, *arguments):
        """The losses of the sheet that a run marks in its loss curve."""
        with mock.patch.multiple(codelet7, visualize=mock.DEFAULT, show_batch=mock.DEFAULT,
                                 save_losses=mock.DEFAULT, train=mock.DEFAULT) as mocks:
            self.assertEqual(self.run_main(*arguments)[0], 0)
        return mocks["save_losses"].call_args.args[-1]

    def test_the_sheets_losses_are_marked_for_the_sheets_settings_only(self):
        self.write_mnist()
        self.assertEqual(self.references(), codelet7.SHEET_LOSSES)
        self.assertEqual(self.references("--seed", "5"), codelet7.SHEET_LOSSES)
        for flag in ("--epochs=21", "--batch-size=65", "--lr=0.001", "--hidden-dims=11",
                     "--sparsity-weight=0", "--dataset=standin"):
            self.assertEqual(self.references(flag), {}, flag)
        for name, value in (("RHO", 0.1), ("EPOCHS", 5), ("LEARNING_RATE", 1e-3)):
            with mock.patch.object(codelet7, name, value):
                self.assertEqual(self.references(), {}, name)

    def test_the_flags_and_the_constants_reach_the_training(self):
        flags = ["--epochs", "7", "--batch-size", "50", "--lr", "0.5", "--hidden-dims", "4",
                 "--sparsity-weight", "0", "--seed", "9"]
        constants = dict(EPOCHS=7, BATCH_SIZE=50, LEARNING_RATE=0.5, HIDDEN_DIMS=4,
                         SPARSITY_WEIGHT=0, SEED=9)
        for changed, arguments in ((dict(EPOCHS=20), flags), (constants, [])):
            with mock.patch.multiple(codelet7, **changed), \
                    mock.patch.object(codelet7, "train", return_value=[(0.5, 0.4)]) as train:
                self.assertEqual(self.run_main("--dataset", "standin", *arguments)[0], 0)
            model, loader, *rest = train.call_args.args
            self.assertEqual(rest, [7, 0.5])
            self.assertEqual(model.encoder.weight.shape, (4, 784))
            self.assertEqual(model.sparsity_weight, 0)
            self.assertEqual(len(next(iter(loader))[0]), 50)
            torch.manual_seed(9)
            expected = codelet7.SparseAutoencoder(784, 4)
            self.assertTrue(torch.equal(model.encoder.weight, expected.encoder.weight))

    def test_a_large_batch_draws_its_first_64_images(self):
        self.write_mnist()
        with mock.patch.multiple(codelet7, visualize=mock.DEFAULT), \
                mock.patch.object(codelet7, "make_grid", side_effect=codelet7.make_grid) as grid:
            self.assertEqual(self.run_main("--epochs", "1", "--batch-size", "60000")[0], 0)
        (images, a_row), = [call.args for call in grid.call_args_list]
        self.assertEqual((len(images), a_row), (64, 16))

    def test_one_thread_unless_the_user_says_otherwise(self):
        for variable, threads in ((None, 1), ("2", 2)):
            with mock.patch.dict(os.environ), mock.patch("torch.set_num_threads") as set_threads, \
                    mock.patch.object(codelet7, "run"):
                os.environ.pop("OMP_NUM_THREADS", None)
                if variable:
                    os.environ["OMP_NUM_THREADS"] = variable
                codelet7.main([])
            self.assertEqual(set_threads.call_args_list, [mock.call(1)] if threads == 1 else [])

    def test_help_states_every_default(self):
        code, out, _ = self.run_main("--help")
        self.assertEqual(code, 0)
        for flag, default in (("epochs", "20"), ("batch-size", "64"), ("lr", "0.0001"),
                              ("hidden-dims", "10"), ("sparsity-weight", "0.0001"), ("seed", "0"),
                              ("data-dir", "data"), ("dataset", "auto"), ("figures-dir", "figures"),
                              ("device", "auto")):
            text = out[out.index("options:"):].split(f"--{flag} ")[1].split(" --")[0]
            self.assertRegex(" ".join(text.split()), rf"\(default: {default}\)$")

    def test_called_in_a_notebook_it_runs_with_the_defaults(self):
        with mock.patch.object(sys, "argv", ["kernel", "-f", "/tmp/kernel.json"]), \
                mock.patch.object(codelet7, "run") as run:
            codelet7.main()
        self.assertEqual(run.call_args.args[0].epochs, codelet7.EPOCHS)

    def test_home_is_expanded_everywhere(self):
        home = self.folder / "home"
        with mock.patch.dict(os.environ, {"HOME": str(home), "USERPROFILE": str(home),
                                          "MNIST_ROOT": "~/mnist"}):
            args = codelet7.parse_args(["--figures-dir", "~/pictures"])
            self.assertEqual((args.data_dir, args.figures_dir), (home / "mnist", home / "pictures"))
            self.assertEqual(codelet7.parse_args(["--data-dir", "~/x"]).data_dir, home / "x")

    def test_a_name_on_the_path_before_ours_is_named(self):
        (self.folder / "utils.py").write_text("mine = True\n")
        code = f"import sys; sys.path[:0] = [{str(self.folder)!r}, {str(ROOT)!r}]; import codelet7"
        process = python("-c", code)
        _, err = process.communicate(timeout=300)
        self.assertIn(str(self.folder / "utils.py"), err.splitlines()[-1])


class BadInput(TestCase):
    def test_bad_flags_are_refused_before_anything_happens(self):
        number = ["x", "", "nan", "inf", "-inf", "-1"]
        whole = ["x", "", "1.5", "nan", "inf", "-1", "1e3", "9" * 5000]
        for flag, values in {"--epochs": [*whole, "0"], "--batch-size": [*whole, "0", "60001"],
                             "--lr": [*number, "0"], "--hidden-dims": [*whole, "0", "10001"],
                             "--sparsity-weight": number, "--seed": [*whole, str(2**63)],
                             "--dataset": ["cifar"],
                             "--device": ["cuda:99", "gpu", "meta", ""]}.items():
            for value in values:
                with self.subTest(flag=flag, value=value[:20]):
                    self.assertFails(2, [flag], f"{flag}={value}")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_folders_that_are_none(self):
        self.write_mnist()
        (self.folder / "file").write_text("mine")
        (self.folder / "link").symlink_to(self.folder / "nowhere")
        bad = [self.folder / "file", self.folder / "link"]
        if os.name != "nt":
            os.mkfifo(self.folder / "pipe")
            bad += [Path(os.devnull), self.folder / "pipe"]
        for path in bad:
            with mock.patch("digits.load") as load:  # a download is long: figures come first
                self.assertFails(1, [str(path), "not a folder"], "--figures-dir", str(path))
            load.assert_not_called()
            for dataset in ("auto", "mnist"):
                self.assertFails(1, [str(path), "not a folder"], "--data-dir", str(path),
                                 "--dataset", dataset)
        for flag in ("--figures-dir", "--data-dir"):
            self.assertFails(1, [str(self.folder / "file"), "not a folder"],
                             flag, str(self.folder / "file" / "inside"))
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_a_run_that_is_refused_makes_no_folders(self):
        self.assertFails(1, ["no MNIST"], "--dataset", "mnist")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_folders_that_cannot_be_written(self):
        denied = PermissionError(13, "Permission denied", "/a/temporary/name")
        with mock.patch("pathlib.Path.touch", side_effect=denied):
            figures = self.folder / "figures"
            self.assertFails(1, [str(figures), "Permission denied"], "--dataset", "standin")
        with mock.patch("digits.check_folder", side_effect=utils.Refusal(f"{self.raw} is denied")):
            self.assertFails(1, [str(self.raw), "denied"], "--dataset", "mnist")

    def test_without_mnist_a_data_folder_need_not_be_written(self):
        check = mock.Mock(side_effect=utils.Refusal(f"cannot write in {self.raw}"))
        with mock.patch("digits.check_folder", check), \
                mock.patch.multiple(codelet7, visualize=mock.DEFAULT):
            code, out, err = self.run_main("--epochs", "1")
        self.assertEqual(code, 0)
        self.assertIn(str(self.raw), err)
        self.assertIn("stand-in", out)

    def test_the_standins_own_folder_too_is_checked_before_training(self):
        (self.folder / "figures").mkdir()
        (self.folder / "figures" / "standin").write_text("mine")
        with mock.patch.object(codelet7, "train") as train:
            self.assertFails(1, [str(self.folder / "figures" / "standin")], "--dataset", "standin")
        self.assertFalse(train.called)

    def test_read_only_mnist_is_enough(self):
        self.write_mnist()
        with mock.patch.multiple("digits", check_folder=mock.DEFAULT, write_whole=mock.DEFAULT,
                                 download=mock.DEFAULT) as mocks, \
                mock.patch.multiple(codelet7, visualize=mock.DEFAULT):
            self.assertEqual(self.run_main("--epochs", "1")[0], 0)
        for name, function in mocks.items():
            self.assertFalse(function.called, name)

    def test_a_loss_that_is_not_finite_ends_the_run(self):
        with mock.patch.multiple(codelet7, visualize=mock.DEFAULT):
            for flags in (["--lr", "1e38"], ["--sparsity-weight", "1e38"]):
                code, out, err = self.run_main("--dataset", "standin", *flags)
                self.assertEqual(code, 1)
                self.assertRegex(err, r"^codelet7\.py: error: the loss is (nan|inf) in epoch \d+: "
                                      r".*--lr.*\n$")
                self.assertNotRegex(out, "nan|inf")

    def test_out_of_memory_is_one_line(self):
        cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "
                           "can't allocate memory: you tried to allocate 188160000 bytes.")
        gpu = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        for error in (cpu, gpu, RuntimeError("CUDA error: out of memory"), MemoryError()):
            with mock.patch.object(codelet7, "train", side_effect=error), \
                    mock.patch.multiple(codelet7, visualize=mock.DEFAULT):
                code, _, err = self.run_main("--dataset", "standin")
            self.assertEqual((code, len(err.splitlines())), (1, 1), err)
            for words in ("out of memory", "--batch-size", "--hidden-dims"):
                self.assertIn(words, err)

    def test_mistakes_of_ours_keep_their_traceback(self):
        with mock.patch.object(codelet7, "run", side_effect=RuntimeError("shapes differ")), \
                self.assertRaises(RuntimeError):
            codelet7.main([])


class Device(TestCase):
    """A GPU that is there and cannot compute, as an old card with a new build of torch."""

    def setUp(self):
        super().setUp()
        self.write_mnist()
        self.enterContext(mock.patch.multiple(codelet7, visualize=mock.DEFAULT))
        real = torch.ones

        def ones(*sizes, device, **options):
            if "cuda" in str(device):
                raise RuntimeError("CUDA error: no kernel image is available for execution on the "
                                   "device\nCUDA kernel errors might be asynchronously reported")
            return real(*sizes, device=device, **options)

        self.enterContext(mock.patch("torch.ones", ones))
        # True to us, who ask first; then the truth, as torch itself would look for the card
        answers = iter([True])
        self.enterContext(mock.patch("torch.cuda.is_available", lambda: next(answers, False)))

    def test_by_default_the_run_goes_on_with_the_cpu_and_says_so(self):
        code, out, err = self.run_main("--epochs", "1", "--device", "auto")
        self.assertEqual((code, len(err.splitlines())), (0, 1), err)
        self.assertIn("no kernel image", err)
        self.assertIn("Device: cpu.", out)

    def test_the_cpu_asked_for_is_the_cpu(self):
        self.assertEqual(commandline.usable_device("cpu"), torch.device("cpu"))

    def test_a_gpu_asked_for_by_name_is_refused(self):
        self.assertFails(2, ["--device", "no kernel image"], "--device", "cuda")


@unittest.skipIf(os.name == "nt", "signals, pipes and limits of this kind are not Windows's")
class Process(TestCase):
    """A run as a process of its own: its streams, its environment, its end."""

    def start(self, *arguments, **options):
        return python("codelet7.py", "--dataset", "standin", "--device", "cpu",
                      "--figures-dir", str(self.folder / "figures"), *arguments, **options)

    def interrupt(self, signals):
        """End a run by Ctrl-C when it has begun to train; `signals` sends it."""
        process = self.start("--epochs", "1000000")
        try:
            for line in process.stdout:
                if line.startswith("Epoch: 1/"):
                    break
            signals(process)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
        self.assertEqual((process.returncode, err.strip()), (130, "codelet7.py: interrupted"))
        for path in (self.folder / "figures").rglob("*.*"):
            with Image.open(path) as image:
                image.verify()

    def test_ctrl_c(self):
        self.interrupt(lambda process: process.send_signal(signal.SIGINT))

    def test_ctrl_c_again_and_again(self):
        def hammer(process):
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
        self.interrupt(hammer)

    def test_a_reader_that_leaves_early_is_no_error(self):
        process = self.start("--epochs", "2")
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual((process.stderr.read(), process.wait(300)), ("", 1))
        process.stderr.close()

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full")
    def test_a_full_disk_under_standard_output_is_named(self):
        with open("/dev/full", "w") as full:
            process = self.start("--epochs", "1", stdout=full)
            _, err = process.communicate(timeout=300)
        self.assertEqual((process.returncode, len(err.splitlines())), (1, 1), err)
        self.assertIn("standard output", err)

    def test_without_standard_output_it_runs(self):
        command = 'exec "$0" "$@" >&-'
        process = subprocess.Popen(
            ["sh", "-c", command, sys.executable, "codelet7.py", "--dataset", "standin", "--epochs",
             "1", "--device", "cpu", "--figures-dir", str(self.folder / "figures")],
            cwd=ROOT, stderr=subprocess.PIPE, text=True)
        _, err = process.communicate(timeout=300)
        self.assertEqual((process.returncode, err), (0, ""))

    def test_odd_consoles_and_backends(self):
        folder = self.folder / "\N{GREEK SMALL LETTER ALPHA}"
        for backend in ("nonsense", "module://not_installed.backend"):
            process = self.start("--epochs", "1", "--figures-dir", str(folder), env=os.environ | {
                "PYTHONIOENCODING": "cp1252", "MPLBACKEND": backend})
            out, err = process.communicate(timeout=300)
            self.assertEqual((process.returncode, err), (0, ""))
            self.assertIn(r"\u03b1", out)
        self.assertTrue((folder / "standin" / "trained" / "nodes.png").exists())

    def test_importing_trains_nothing(self):
        process = python("-c", "import codelet7; print(callable(codelet7.main))")
        self.assertEqual(process.communicate(timeout=300), ("True\n", ""))


class Streams(TestCase):
    def test_streams_without_reconfigure_are_left_alone(self):
        for stream in (None, io.StringIO()):  # closed; IDLE's and a notebook's
            with mock.patch.object(sys, "stdout", stream), mock.patch("signal.signal"), \
                    commandline.as_program():
                pass

    def test_the_last_line_says_that_only_some_nodes_were_drawn(self):
        with mock.patch.multiple(codelet7, visualize=mock.DEFAULT):
            for nodes, drawn in (("32", False), ("33", True)):
                _, out, _ = self.run_main("--dataset", "standin", "--epochs", "1",
                                          "--hidden-dims", nodes)
                self.assertEqual("first 32 nodes" in out.splitlines()[-1], drawn)

"""Where the digits come from: MNIST on disk in many a guise, failing networks, the stand-in."""

import contextlib
import gzip
import http.server
import io
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import torch
from torchvision.datasets import MNIST

import digits
from tests import ROOT, TestCase, draw_few
from utils import Refusal


class Load(TestCase):
    def load(self, dataset="auto", root=None):
        """The digits that load() finds, and what it says on stderr."""
        with contextlib.redirect_stderr(io.StringIO()) as err:
            return digits.load(dataset, root or self.folder / "data"), err.getvalue()

    def assertFound(self, root=None):
        """load() gives MNIST, whole, without a word of a download."""
        data, err = self.load(root=root)
        self.assertEqual((data.name, err), ("MNIST", ""))
        for ours, drawn in zip(data[1:], draw_few()[1:]):
            self.assertTrue(torch.equal(ours, drawn))


class OnDisk(Load):
    def test_whole_files_are_used(self):
        self.write_mnist()
        self.assertFound()

    def test_it_lies_where_torchvision_puts_it(self):
        self.write_mnist()
        data = MNIST(self.folder / "data", train=False)
        self.assertTrue(torch.equal(data.data, draw_few().test_images))

    def test_the_sums_are_mnists_own(self):
        mock.patch.stopall()
        self.doCleanups()
        self.assertEqual(sorted(digits.MD5.values()), sorted([
            "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"]))

    def test_other_archives_names_packed_and_unpacked_in_any_mixture(self):
        dotted = {name.replace("-idx", ".idx"): data for name, data in self.files.items()}
        packed = {name.replace("-idx", ".idx"): data for name, data in self.archives.items()}
        unpacked_but_named_gz = {f"{name}.gz": data for name, data in self.files.items()}
        *three, last = self.files
        mixture = {name: self.files[name] for name in three}
        mixture[f"{last}.gz"] = self.archives[f"{last}.gz"]
        guises = [dotted, packed, self.archives, unpacked_but_named_gz, mixture]
        for number, files in enumerate(guises):
            root = self.folder / str(number)
            self.write_mnist(root / "MNIST" / "raw", files)
            self.assertFound(root)
            self.assertEqual({path.name for path in (root / "MNIST" / "raw").iterdir()}, set(files))

    def test_the_root_may_be_mnists_own_folder(self):
        self.write_mnist()
        for root in (self.raw, self.raw.parent):
            self.assertFound(root)
        self.assertEqual([path.name for path in self.folder.rglob("raw")], ["raw"])

    def test_a_whole_archive_beside_a_damaged_file_is_used(self):
        self.write_mnist(files=self.archives)
        (self.raw / "train-images-idx3-ubyte").write_bytes(b"half of it")
        self.assertFound()

    def test_damaged_files_are_named_and_kept(self):
        self.write_mnist()
        names = list(self.files)
        for name, other in zip(names, names[1:] + names[:1]):
            whole = self.files[name]
            for damage, data in {"empty": b"", "cut short": whole[:-1],
                                 "one byte changed": whole[:500] + b"\x5a" + whole[501:],
                                 "swapped": self.files[other],
                                 "a web page": b"<html>Sign in</html>"}.items():
                self.assertNotEqual(data, whole)
                (self.raw / name).write_bytes(data)
                for dataset in ("auto", "mnist"):
                    with self.subTest(name=name, damage=damage, dataset=dataset):
                        self.assertFails(1, [str(self.raw / name), "damaged", "run again"],
                                         "--dataset", dataset)
                        self.assertEqual((self.raw / name).read_bytes(), data)
            (self.raw / name).write_bytes(whole)

    def test_a_damaged_archive_is_named_and_kept(self):
        self.write_mnist(files=self.archives)
        for name, whole in self.archives.items():
            middle = len(whole) // 2
            for data in (whole[:middle], whole[:middle] + b"\0\0\0\0" + whole[middle + 4:],
                         b"<html>Sign in</html>"):
                (self.raw / name).write_bytes(data)
                self.assertFails(1, [str(self.raw / name), "damaged", "run again"])
                self.assertEqual((self.raw / name).read_bytes(), data)
            (self.raw / name).write_bytes(whole)

    def test_a_folder_in_a_files_place(self):
        self.write_mnist()
        for name in self.files:
            (self.raw / name).unlink()
            (self.raw / name).mkdir()
            (self.raw / name / "mine").write_text("keep")
            self.assertFails(1, [str(self.raw / name), "not a file", "run again"])
            self.assertEqual((self.raw / name / "mine").read_text(), "keep")
            (self.raw / name / "mine").unlink()
            (self.raw / name).rmdir()
            (self.raw / name).write_bytes(self.files[name])

    def test_one_missing_file_and_no_network(self):
        self.write_mnist()
        for name in self.files:
            (self.raw / name).unlink()
            for dataset in ("auto", "mnist"):
                self.assertFails(1, [str(self.raw / name), "missing", "Copy it there"],
                                 "--dataset", dataset)
            self.assertEqual({path.name for path in self.raw.iterdir()}, set(self.files) - {name})
            (self.raw / name).write_bytes(self.files[name])

    def test_no_files_and_no_network(self):
        self.assertFails(1, ["MNIST", *self.files], "--dataset", "mnist")
        data, err = self.load()
        self.assertIn("stand-in", data.name)
        for words in ("no MNIST", "download", str(self.raw), *self.files):
            self.assertIn(words, err)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves self.server.archives, in the way that self.server.manner says."""

    def do_GET(self):
        body, manner = self.server.archives[self.path.lstrip("/")], self.server.manner
        self.server.asked.append(self.path.lstrip("/"))
        if manner == "hangs":
            self.server.over.wait(300)
            return
        if manner == "web page":
            body = b"<html>Please sign in to the network</html>"
        if manner == "another file":
            body = gzip.compress(b"whole, and not MNIST's")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if manner == "trickles":  # a byte at a time, but never still
            for start in range(len(body)):
                self.wfile.write(body[start:start + 1])
                if self.server.over.wait(0.02):
                    break
        elif manner == "breaks off":
            self.wfile.write(body[:len(body) // 2])
        elif manner == "stops halfway":
            self.wfile.write(body[:len(body) // 2])
            self.wfile.flush()
            self.server.over.wait(300)
        else:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Download(Load):
    def setUp(self):
        super().setUp()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        self.server.daemon_threads, self.server.archives = True, self.archives
        self.server.manner, self.server.over, self.server.asked = "works", threading.Event(), []
        self.server.handle_error = lambda *_: None  # clients that give up
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.over.set)
        self.mirror = f"http://127.0.0.1:{self.server.server_port}/"
        self.enterContext(mock.patch.object(MNIST, "mirrors", [self.mirror]))

    def assertDownloaded(self):
        data, err = self.load()
        self.assertEqual(data.name, "MNIST")
        self.assertIn(f"Downloading {self.mirror}", err)
        self.assertEqual({path.name: path.read_bytes() for path in self.raw.iterdir()}, self.files)
        self.assertEqual([path.name for path in (self.folder / "data").iterdir()], ["MNIST"])
        self.assertFound()

    def test_works(self):
        self.assertDownloaded()
        self.assertEqual(self.server.asked, list(self.archives))

    def test_only_what_is_missing_is_fetched(self):
        self.write_mnist()
        (self.raw / "t10k-labels-idx1-ubyte").unlink()
        before = (self.raw / "train-images-idx3-ubyte").stat().st_ino
        self.assertDownloaded()
        self.assertEqual(self.server.asked, ["t10k-labels-idx1-ubyte.gz"])
        self.assertEqual((self.raw / "train-images-idx3-ubyte").stat().st_ino, before)

    def test_what_is_missing_goes_beside_what_is_there(self):
        self.write_mnist()
        (self.raw / "t10k-labels-idx1-ubyte").unlink()
        self.assertEqual(self.load(root=self.raw)[0].name, "MNIST")
        self.assertEqual({path.name for path in self.raw.iterdir()}, set(self.files))

    def test_a_mirror_that_fails_leaves_the_next(self):
        with mock.patch.object(MNIST, "mirrors", ["file:///no/such/folder/", self.mirror]):
            self.assertDownloaded()

    def test_failures_are_not_taken_for_mnist_and_the_next_run_recovers(self):
        for manner in ("web page", "breaks off", "another file"):
            with self.subTest(manner):
                self.server.manner = manner
                data, err = self.load()
                self.assertIn("stand-in", data.name)
                self.assertIn("the download of train-images-idx3-ubyte failed", err)
                with self.assertRaises(Refusal):
                    self.load("mnist")
                self.assertFalse((self.folder / "data").exists())
                self.server.manner = "works"
                self.assertDownloaded()
                shutil.rmtree(self.folder / "data")

    def test_hangs_are_given_up(self):
        self.assertLess(digits.PATIENCE, 30)
        for manner in ("hangs", "trickles", "stops halfway"):
            with self.subTest(manner), mock.patch.object(digits, "PATIENCE", 0.5):
                self.server.manner = manner
                start = time.monotonic()
                data, err = self.load()
                self.assertLess(time.monotonic() - start, 200)  # the server would go on for 300
                self.assertIn("stand-in", data.name)
                self.assertIn("failed", err)
                self.assertFalse((self.folder / "data").exists())
        self.server.manner = "works"
        self.assertDownloaded()

    @unittest.skipIf(sys.platform == "win32", "Windows has no SIGTERM to send")
    def test_a_run_that_is_ended_in_a_download_leaves_nothing(self):
        self.server.manner = "stops halfway"
        code = f"""if True:
            import sys; sys.path.insert(0, {str(ROOT)!r})
            import digits
            digits.MNIST.mirrors = [{self.mirror!r}]
            digits.load("mnist", {str(self.folder / "data")!r})"""
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        process.stderr.readline()  # "Downloading ..."
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertEqual([path for path in self.folder.rglob("*") if path.is_file()], [])


class StandIn(TestCase):
    def setUp(self):
        super().setUp()
        mock.patch.stopall()
        self.doCleanups()  # the real draw_standin, please
        self.data = digits.draw_standin(4000, 500)

    def test_has_mnists_format(self):
        train, labels, test, test_labels = self.data[1:]
        self.assertEqual((train.shape, train.dtype), ((4000, 28, 28), torch.uint8))
        self.assertEqual((test.shape, test_labels.shape, labels.dtype),
                         ((500, 28, 28), (500,), torch.int64))
        self.assertEqual(sorted(set(labels.tolist())), list(range(10)))
        self.assertGreater(labels.bincount().min(), 300)
        self.assertEqual((train.min(), train.max()), (0, 255))

    def test_is_centred_and_sized_as_mnist_is(self):
        images = self.data.images.float()
        position = torch.arange(28.0)
        for axis in (1, 2):
            centre = (images.sum(axis) * position).sum(1) / images.sum((1, 2))
            self.assertLess((centre - 14).abs().max(), 0.75)  # MNIST's own lie within 0.5 or so
            self.assertAlmostEqual(centre.mean().item(), 14, delta=0.05)
        height = (images.amax(2) > 0).sum(1).float()
        self.assertAlmostEqual(height.mean().item(), 20, delta=2)
        self.assertAlmostEqual((images / 255).mean().item(), 0.1307, delta=0.02)

    def test_varies_and_repeats(self):
        again, other = digits.draw_standin(4000, 500), digits.draw_standin(4000, 500, seed=1)
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(self.data[1:], again[1:])))
        self.assertFalse(torch.equal(self.data.images, other.images))
        self.assertGreater(len(torch.unique(self.data.images.flatten(1), dim=0)), 3990)

    def test_the_default_type_of_numbers_plays_no_part(self):
        torch.set_default_dtype(torch.float64)
        self.addCleanup(torch.set_default_dtype, torch.float32)
        again = digits.draw_standin(4000, 500)
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(self.data[1:], again[1:])))

    def test_cannot_be_mistaken(self):
        self.assertIn("not MNIST", self.data.name)
        self.assertEqual(len(digits.draw_standin().images), 60_000)

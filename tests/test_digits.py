"""Where the digits come from: MNIST on disk or from a network, the stand-in digits."""

import contextlib
import functools
import gzip
import http.client
import http.server
import io
import os
import re
import shutil
import socket
import tempfile
import threading
import unittest
import urllib.error
from unittest import mock

import numpy as np
import torch
from torchvision.datasets import MNIST

import codelet7
import digits
from tests import TestCase, contents, draw_few, md5


class MnistFiles(TestCase):
    def load(self, dataset="auto"):
        """The digits that load_data() returns, and its stderr."""
        with contextlib.redirect_stderr(io.StringIO()) as err, \
                contextlib.redirect_stdout(io.StringIO()):  # older torchvisions print
            data = codelet7.load_data(dataset, self.folder / "data")
        return data, err.getvalue()

    def assertFound(self):
        data, err = self.load()
        self.assertEqual(data.name, "MNIST", err)
        self.assertTrue(all(map(torch.equal, data[1:], draw_few()[1:])))

    def assertRefused(self, words):
        """load_data() raises DataError with these words, and leaves every file as it was."""
        before = contents(self.folder)
        for dataset in ("auto", "mnist"):
            with self.assertRaisesRegex(digits.DataError, re.escape(words)):
                self.load(dataset)
        self.assertEqual(contents(self.folder), before)

    def serve(self, files):
        """Let the mirror of the downloads that follow hold these files."""
        mirror = self.folder / "mirror"
        self.put(mirror, files)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=mirror)
        self.enterContext(mock.patch.object(handler.func, "log_message"))
        server = self.enterContext(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever).start()
        self.addCleanup(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}/"
        self.enterContext(mock.patch.object(MNIST, "mirrors", [url]))
        self.enterContext(mock.patch.dict(os.environ, no_proxy="127.0.0.1"))

    def test_local_files_need_no_network_and_no_writes(self):
        mixed = dict([*self.files.items()][:2] + [*self.archives.items()][2:])
        unused = self.files | {"t10k-images-idx3-ubyte.gz": b"half a download"}
        kaggle = {f"{name}/{name}": data for name, data in self.files.items()}
        seven_zip = {name.replace("-idx", ".idx"): data for name, data in self.files.items()}
        for files in (self.files, self.archives, mixed, unused, kaggle, seven_zip):
            self.put(self.raw, files)
            self.assertFound()
            self.assertEqual(contents(self.raw), md5(files))
            shutil.rmtree(self.raw)

    def test_files_with_other_contents_are_refused_by_their_path(self):
        name, archive = "t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"
        whole = self.archives[archive]
        other = self.files["train-images-idx3-ubyte"]
        for file, data in ((name, self.files[name][:-1]), (name, b""), (name, other),
                           (archive, whole[:-9]), (archive, whole[:100] + whole[120:]),
                           (archive, b""), (archive, b"PK"), (archive, gzip.compress(other))):
            for others in ({}, self.archives):
                self.put(self.raw, others | {file: data})
                self.assertRefused(f"{self.raw / file} is damaged or from another data set (wrong "
                                   "checksum). Move it away")
                shutil.rmtree(self.raw)

    @unittest.skipIf(os.name == "nt", "symbolic links need a privilege on Windows")
    def test_a_dangling_link_is_named_and_not_replaced(self):
        self.serve(self.archives)
        link = self.raw / "t10k-images-idx3-ubyte"
        self.raw.mkdir(parents=True)
        link.symlink_to("elsewhere")
        self.assertFails(1, [str(link)])
        self.assertEqual([path.is_symlink() for path in self.raw.iterdir()], [True])

    def test_missing_mnist_message_names_the_folder(self):
        data, err = self.load()
        self.assertIs(data, draw_few())
        for word in (str(self.raw), *self.files, "stand-in"):
            self.assertIn(word, err)
        self.assertFails(1, [str(self.raw), *self.files], "--dataset=mnist")
        self.assertFalse((self.folder / "data").exists())

    def test_an_incomplete_set_names_what_is_missing(self):
        *some, missing = self.files
        self.put(self.raw, {name: self.files[name] for name in some})
        self.assertRefused(f"{self.raw} (missing: {missing})")

    def test_a_download_completes_the_set_and_leaves_nothing_else(self):
        self.serve(self.archives)
        self.put(self.raw, dict([*self.files.items()][:2]))
        self.assertFound()
        self.assertEqual(contents(self.raw), md5(self.files))

    def test_what_another_process_saves_during_the_download_stays(self):
        saved = {"t10k-images-idx3-ubyte": b"another's"}
        with mock.patch.object(digits, "download", lambda: self.put(self.raw, saved) or self.files):
            self.assertFound()
        self.assertEqual(contents(self.raw), md5(self.files | saved))

    def test_a_failed_download_leaves_nothing(self):
        before = socket.getdefaulttimeout()
        for error in (TimeoutError("timed out"), urllib.error.URLError("unreachable"),
                      http.client.IncompleteRead(b"")):
            def fail(*args, **options):
                self.assertEqual(socket.getdefaulttimeout(), 10)
                raise error
            with mock.patch("urllib.request.urlopen", fail), \
                    mock.patch.object(MNIST, "mirrors", ["https://localhost/"]):
                self.assertIs(self.load()[0], draw_few())
            self.assertEqual(socket.getdefaulttimeout(), before)
        page = {name: b"<html>Log in</html>" for name in self.archives}
        cut = self.archives | {"t10k-labels-idx1-ubyte.gz": b"\x1f\x8b"}  # the last of the four
        for served in (page, cut):
            self.serve(served)
            self.assertIs(self.load()[0], draw_few())
            self.assertFalse((self.folder / "data").exists())

    def test_disk_errors_name_the_place(self):
        self.serve(self.archives)
        full = OSError(28, "No space left")
        self.put(self.folder, {"data": b"a file"})
        self.assertFails(1, [str(self.raw)])
        self.assertEqual((self.folder / "data").read_bytes(), b"a file")
        for path in (self.folder / "data" / "inside", self.folder / ("a" * 300)):
            with self.assertRaises(OSError) as caught:
                digits.write_whole(path, b"")
            self.assertEqual(caught.exception.filename, str(path))
        (self.folder / "data").unlink()
        with mock.patch("torchvision.datasets.mnist.download_and_extract_archive",
                        side_effect=full):
            self.assertFails(1, ["No space left", tempfile.gettempdir()])
        with mock.patch("pathlib.Path.replace", side_effect=full):
            self.assertFails(1, ["No space left", str(self.raw / "train-images-idx3-ubyte")])
        self.assertEqual(list(self.raw.iterdir()), [])


class Standin(unittest.TestCase):
    def test_has_mnists_format_and_is_always_the_same(self):
        state = torch.get_rng_state()
        data, again = (digits.draw_standin(train=3000, test=500) for _ in range(2))
        self.assertTrue(torch.equal(torch.get_rng_state(), state))
        self.assertEqual((data.images.shape, data.images.dtype), ((3000, 28, 28), torch.uint8))
        self.assertEqual((data.test_labels.shape, data.labels.dtype), ((500,), torch.int64))
        self.assertTrue((data.labels.bincount() > 200).all())
        self.assertTrue(all(torch.equal(*pair) for pair in zip(data[1:], again[1:])))
        self.assertEqual(data.images[:, 0].max(), 0)  # the margin is empty
        places = np.array([digits.centre_of_mass(image) for image in data.images[:500].numpy()])
        self.assertLess(abs(places - 14.5).max(), 0.7)
        self.assertLess(abs(places.mean(0) - 14.5).max(), 0.05)

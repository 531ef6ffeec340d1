"""The contents of the figures, pixel by pixel."""

from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid

import codelet7
import utils
from tests import TestCase


class Show(TestCase):
    def test_opens_a_window_only_without_a_path(self):
        from matplotlib import pyplot
        with mock.patch("matplotlib.pyplot.show") as window:
            utils.show(torch.zeros(3, 30, 30), self.folder / "grid.png", "A title")
            utils.show(torch.zeros(3, 30, 30), title="A title")
        window.assert_called_once_with()
        self.assertEqual(pyplot.gcf().texts[0].get_text(), "A title")
        pyplot.close("all")

    def test_the_suffix_decides_the_format(self):
        for head, suffixes in {b"\x89PNG": ["", ".png"], b"\xff\xd8": [".jpg", ".jpeg"],
                               b"II*": [".tif", ".tiff"], b"RIFF": [".webp"], b"<?xml": [".svg"],
                               b"%PDF": [".pdf"]}.items():
            for suffix in suffixes:
                utils.show(torch.zeros(3, 30, 30), self.folder / f"grid{suffix}")
                self.assertEqual((self.folder / f"grid{suffix}").read_bytes()[:len(head)], head)

    def test_draws_sharp_pixels_on_the_stated_grey_scale(self):
        grid = torch.full((3, 62, 62), utils.BACKGROUND)
        grid[:, 10:30, 20:50] = 1  # the maximum of tanh
        grid[:, 40:50, 20:50] = (utils.BACKGROUND + 1) / 2
        grid[:, 0, :], grid[:, 1, :] = -50, utils.INK  # outside of the scale: black, white
        grey = ((grid - utils.BACKGROUND) / (1 - utils.BACKGROUND)).clamp(0, 1) * 255
        zoom = round(1200 / 62)
        expected = np.kron(grey.permute(1, 2, 0).numpy(), np.ones((zoom, zoom, 1)))
        for shown in (grid, grey.round().byte()):  # normalized, 8-bit
            utils.show(shown, self.folder / "grid.png")
            with Image.open(self.folder / "grid.png") as image:
                pixels = np.asarray(image.convert("RGB")).astype(int)
            left = (pixels.shape[1] - 62 * zoom) // 2
            drawn = pixels[20:20 + 62 * zoom, left:left + 62 * zoom]
            self.assertLessEqual(np.abs(drawn - expected).max(), 1)
        with self.assertRaisesRegex(TypeError, "int64"):
            utils.show(grid.long(), self.folder / "grid.png")

    def test_a_tall_grid_makes_no_huge_figure(self):
        utils.show(make_grid(torch.zeros(64, 1, 28, 28), 1), self.folder / "grid.png")
        with Image.open(self.folder / "grid.png") as image:
            self.assertLess(image.width * image.height, 3e6)


class Visualizations(TestCase):
    def setUp(self):
        super().setUp()
        self.images = self.data.images
        self.model = codelet7.SparseAutoencoder(784, 3).requires_grad_(False)
        self.saved, self.shown = {}, {}
        save = lambda figure, path: self.saved.update({path.name: figure})
        show = lambda grid, path, title: self.shown.update({path.name: (grid, title)})
        self.enterContext(mock.patch.object(utils, "save", save))
        self.enterContext(mock.patch.object(codelet7, "show", show))

    def visualize(self, count=1000):
        images, labels = self.images[:count], self.data.labels[:count]
        codelet7.visualize(self.model, images, labels, self.folder, "A title.")

    def test_16_rows_of_images_next_to_their_reconstructions(self):
        self.visualize()
        (grid, title), gap = self.shown["reconstruction.png"], 4
        self.assertIn("first 64 images", title)
        self.assertEqual(grid.shape, (3, 16 * (28 + gap) + gap, 4 * (56 + gap) + gap))
        for index in range(64):
            top, left = gap + index // 4 * (28 + gap), gap + index % 4 * (56 + gap)
            image = self.images[index]
            for tile, expected in ((grid[:, top:top + 28, left:left + 28], image),
                                   (grid[:, top:top + 28, left + 28:left + 56],
                                    self.model(image[None])[1].view(1, 28, 28))):
                torch.testing.assert_close(tile, expected.expand(3, -1, -1))

    def test_each_nodes_top_100_even_where_the_sigmoid_rounds_to_1(self):
        for bias in (0, 200):
            self.model.encoder.bias += bias
            self.visualize()
            pre_activation = self.model.encoder.weight @ self.images.flatten(1).t()
            for node in range(3):
                order = np.argsort(-pre_activation[node].numpy())[:100]
                grid, title = self.shown[f"node_{node}.png"]
                self.assertTrue(torch.equal(grid, make_grid(self.images[order], 10)))
                self.assertIn("The 100 images", title)
        self.assertEqual(self.model.encode(self.images).min(), 1)

    def test_a_few_images_and_the_first_nodes_are_enough(self):
        with mock.patch.object(codelet7, "MAX_NODE_FIGURES", 2):
            self.visualize(count=40)
        self.assertEqual(set(self.shown), {"reconstruction.png", "node_0.png", "node_1.png"})
        for _, title in self.shown.values():
            self.assertRegex(title, r"(first|The) 40 images.* A title\.$")
        self.assertEqual(len(self.saved["nodes.png"].axes), 2 * 5)

    def test_node_overview(self):
        self.visualize()
        rows = np.array(self.saved["nodes.png"].axes).reshape(3, 5)
        self.assertEqual([axes.get_title().split()[0] for axes in rows[0]],
                         ["decoder", "covariance", "example", "histogram", "share"])
        x = self.images.flatten(1).double().numpy()
        h = self.model.encode(self.images).double().numpy()
        patterns = self.model.decoder.weight.t(), (h - h.mean(0)).T @ x / len(x)
        for node, (*maps, examples, histogram, shares) in enumerate(rows):
            self.assertEqual(maps[0].texts[0].get_text(), f"node {node}")
            for image, pattern in zip((axes.images[0] for axes in maps), patterns):
                np.testing.assert_allclose(image.get_array().flatten(), pattern[node], atol=1e-5)
                limit = abs(pattern).max()  # one scale for all nodes
                np.testing.assert_allclose(image.get_clim(), (-limit, limit), rtol=1e-4)
                self.assertEqual(image.get_cmap().name, "RdBu_r")  # more ink is red
            ranked = np.argsort(h[:, node], kind="stable")
            middles = self.images[[ranked[i] for i in (62, 187, 312, 437, 562, 687, 812, 937)]]
            strip = utils.to_grey(make_grid(middles, 8, padding=1, pad_value=1)).permute(1, 2, 0)
            np.testing.assert_array_equal(examples.images[0].get_array(), strip)
            self.assertEqual(histogram.patches[0].get_data().values.tolist(),
                             np.histogram(h[:, node], 50, (0, 1))[0].tolist())
            self.assertIn(f"mean {h[:, node].mean():.2f}", histogram.texts[0].get_text())
            lines = {line.get_color(): line.get_xdata()[0] for line in histogram.lines}
            self.assertAlmostEqual(lines[utils.ORANGE], h[:, node].mean(), places=5)
            self.assertEqual(lines[utils.BLUE], self.model.rho)
            for digit, bar in enumerate(shares.patches):
                fires = h[self.data.labels == digit, node] > 0.5
                self.assertAlmostEqual(bar.get_height(), fires.mean(), places=6)

    def test_loss_curve_with_the_instructors_losses(self):
        utils.plot_losses([(0.8, 0.7), (0.6, 0.55)], {1: 0.81, 20: 0.5}, self.folder / "loss.png",
                          "")
        upper, lower = self.saved["loss.png"].axes
        np.testing.assert_allclose([line.get_xydata() for line in upper.lines + lower.lines],
                                   [[[1, 0.8], [2, 0.6]], [[1, 0.7], [2, 0.55]],
                                    [[1, 0.81], [20, 0.5]], [[1, 0.1], [2, 0.05]]])
        self.assertEqual([line.get_label().split()[0] for line in upper.lines],
                         ["loss:", "MSE", "instructor"])
        self.assertEqual({text.get_text(): text.xy for text in upper.texts},
                         {"0.8000": (1, 0.8), "0.6000": (2, 0.6)})

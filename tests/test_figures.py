"""What the figures hold, pixel by pixel."""

import os
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid

import codelet7
import utils
from tests import TestCase, draw_few


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


class Show(TestCase):
    def test_opens_a_window_only_without_a_path(self):
        from matplotlib import pyplot
        with mock.patch("matplotlib.pyplot.show") as window:
            utils.show(torch.zeros(3, 30, 30), self.folder / "new" / "grid.png", "A title")
            window.assert_not_called()
            utils.show(torch.zeros(3, 30, 30), title="A title")
        window.assert_called_once_with()
        self.assertEqual(pyplot.gcf().texts[0].get_text(), "A title")
        pyplot.close("all")

    def drawn(self, grid):
        """The part of a saved figure that holds the grid, in screen pixels, and their zoom."""
        utils.show(grid, self.folder / "grid.png")
        image, (height, width) = pixels(self.folder / "grid.png"), grid.shape[1:]
        zoom = round(1200 / width)
        left = (image.shape[1] - width * zoom) // 2
        return image[20:20 + height * zoom, left:left + width * zoom], zoom

    def test_draws_sharp_pixels_on_the_stated_grey_scale(self):
        grid = torch.full((3, 62, 62), utils.PAPER)
        grid[:, 10:30, 20:50] = 1  # where tanh ends
        grid[:, 40:50, 20:50] = (utils.PAPER + 1) / 2
        grid[:, 0, :], grid[:, 1, :] = -50, utils.INK  # outside of the scale: black, white
        drawn, zoom = self.drawn(grid)
        expected = ((grid - utils.PAPER) / (1 - utils.PAPER)).clamp(0, 1).permute(1, 2, 0) * 255
        expected = np.kron(expected.numpy(), np.ones((zoom, zoom, 1)))
        self.assertLessEqual(np.abs(drawn - expected).max(), 1)

    def test_a_tall_grid_makes_no_huge_picture(self):
        utils.show(make_grid(torch.zeros(64, 1, 28, 28), 1), self.folder / "grid.png")
        self.assertLess(pixels(self.folder / "grid.png").size, 3 * 3e6)



class Visualizations(TestCase):
    def setUp(self):
        super().setUp()
        data = draw_few()
        self.images = codelet7.normalize(data.images)
        self.model = codelet7.SparseAutoencoder(784, 3)
        with torch.no_grad():
            self.hidden, self.reconstruction = self.model(self.images)
        self.saved, self.grids = {}, {}
        self.enterContext(mock.patch.object(
            utils, "save", lambda figure, path: self.saved.update({path.name: figure})))
        self.enterContext(mock.patch.object(
            codelet7, "show", lambda grid, path, title: self.grids.update({path.name: grid})))
        codelet7.visualize(self.model, self.images, data.labels, self.folder, "")
        self.data = data

    def test_reconstruction_has_16_rows_of_inputs_beside_their_reconstructions(self):
        grid, gap = self.grids["reconstruction.png"], 4
        self.assertEqual(grid.shape, (3, 16 * (28 + gap) + gap, 4 * (56 + gap) + gap))
        for index in range(64):
            top, left = gap + index // 4 * (28 + gap), gap + index % 4 * (56 + gap)
            for tile, expected in ((grid[:, top:top + 28, left:left + 28], self.images[index]),
                                   (grid[:, top:top + 28, left + 28:left + 56],
                                    self.reconstruction[index].view(1, 28, 28))):
                torch.testing.assert_close(tile, expected.expand(3, -1, -1))

    def test_each_nodes_top_100_are_the_highest_of_all_strongest_first(self):
        for node in range(3):
            order = np.argsort(-self.hidden[:, node].numpy(), kind="stable")[:100]
            self.assertTrue(torch.equal(self.grids[f"node_{node}.png"],
                                        make_grid(self.images[order], 10)))

    def test_nodes_that_the_sigmoid_rounds_to_1_keep_their_order(self):
        with torch.no_grad():
            self.model.encoder.bias += 200
        self.assertEqual(self.model.encode(self.images).min(), 1)
        codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "")
        self.test_each_nodes_top_100_are_the_highest_of_all_strongest_first()

    def test_the_node_sheet(self):
        rows = np.array(self.saved["nodes.png"].axes).reshape(3, 5)
        x, h = self.images.flatten(1).double().numpy(), self.hidden.double().numpy()
        for node, (weights, common, examples, histogram, shares) in enumerate(rows):
            np.testing.assert_array_equal(weights.images[0].get_array().flatten(),
                                          self.model.decoder.weight[:, node].detach())
            oracle = [np.cov(pixel, h[:, node], bias=True)[0, 1] for pixel in x.T[200:210]]
            np.testing.assert_allclose(common.images[0].get_array().flatten()[200:210], oracle,
                                       atol=1e-5)
            ranked = np.argsort(h[:, node], kind="stable")
            chosen = self.images[[ranked[i] for i in (62, 187, 312, 437, 562, 687, 812, 937)]]
            strip = utils.to_grey(make_grid(chosen, 8, padding=1, pad_value=1)).permute(1, 2, 0)
            np.testing.assert_array_equal(examples.images[0].get_array(), strip)
            self.assertEqual(histogram.patches[0].get_data().values.sum(), 1000)
            self.assertIn(f"mean {h[:, node].mean():.2f}", histogram.texts[0].get_text())
            fires = self.hidden[self.data.labels == 4, node] > 0.5
            self.assertAlmostEqual(shares.patches[4].get_height(), fires.float().mean(), places=6)

    def test_the_loss_curve_and_the_sheets_two_losses(self):
        utils.plot_losses([(0.8, 0.7), (0.6, 0.55)], {1: 0.81, 20: 0.5}, self.folder / "loss.png",
                          "")
        upper, lower = self.saved["loss.png"].axes
        drawn = [line.get_xydata().tolist() for line in upper.lines + lower.lines]
        self.assertEqual(drawn[:3], [[[1, 0.8], [2, 0.6]], [[1, 0.7], [2, 0.55]],
                                     [[1, 0.81], [20, 0.5]]])
        np.testing.assert_allclose(drawn[3], [[1, 0.1], [2, 0.05]])

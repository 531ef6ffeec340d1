"""writeup/measures.py on cases worked out by hand."""

import math
import unittest
from unittest import mock

import torch
from torch import nn

import codelet7
import utils
from codelet7 import SparseAutoencoder
from digits import Digits
from writeup import measures

ON = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 1], [1, 1]]).bool()
IMAGES = torch.tensor([[0., 1], [0, 3], [4, 1], [4, 3], [-8, 1], [-8, 3], [-4, 1], [-4, 3]]) / 10
LABELS = torch.tensor([7, 7, 1, 1, 2, 2, 3, 3])


class Answers(unittest.TestCase):
    def test_sparsity_of_known_activations(self):
        hidden = torch.tensor([[0.95, 0.2, 0], [0.6, 0.55, 0], [0.1, 0.4, 0], [0, 0, 1e-9]])
        with mock.patch.object(codelet7, "WEAK", 0.25):
            row = measures.describe_activations(hidden)
        known = {"mean": 2.8 / 12, "on": 3 / 4, "none": 2 / 4, "weak": 0.3 / 2.8}
        for key, expected in known.items():
            self.assertAlmostEqual(row[key], expected, places=4, msg=key)
        self.assertAlmostEqual(measures.saturated(hidden), 7 / 12)

    def test_profile_is_the_share_of_the_total_activation(self):
        hidden = torch.tensor([[0.1, 0.3], [0.6, 1.0]])
        torch.testing.assert_close(measures.activation_profile(hidden, 4),
                                   torch.tensor([0.1, 0.3, 0.6, 1.0]).double() / 2.0)

    def test_norm_is_that_of_the_decoders_columns(self):
        model = SparseAutoencoder(784, 2).requires_grad_(False)
        model.decoder.weight.copy_(torch.tensor([0.5, 1.5]).expand(784, 2))
        self.assertAlmostEqual(measures.mean_norm(model), 28.0, places=5)

    def test_lookup_table_of_eight_images(self):
        bright = IMAGES + torch.tensor([2.0, 0])  # mean (1.8, 0.2); the table ends where tanh ends
        for images, asked, shrink, expected in (
                (IMAGES, [0, 2, 4, 6], 0, [[0, 0.2], [0.4, 0.2], [-0.8, 0.2], [-0.4, 0.2]]),
                (IMAGES, [4], 2, [[-0.5, 0.2]]), (bright, [0, 4], 2, [[1, 0.2], [1, 0.2]])):
            torch.testing.assert_close(measures.look_up(ON, images, ON[asked], shrink),
                                       torch.tensor(expected))

    def test_nearest_of_two_images(self):
        images = torch.tensor([[0.0, 0], [9, 9], [0.2, 0], [9, 8], [9, 7]])
        data = Digits("", images, None, torch.tensor([[0.3, 0], [5, 5], [0, 0]]), None)
        torch.testing.assert_close(measures.nearest_of(2, data),
                                   torch.tensor([[0.1, 0], [1, 1], [0.1, 0]]))

    def test_tree_of_eight_images(self):
        tree = measures.grow_tree(ON, IMAGES, LABELS, 2)
        self.assertEqual((tree["asks"], tree["count"]), (0, 8))  # it splits 0.2 from -0.6
        torch.testing.assert_close(tree["no"]["mean"], torch.tensor([0.2, 0.2]))
        torch.testing.assert_close(tree["yes"]["mean"], torch.tensor([-0.6, 0.2]))
        self.assertEqual((tree["no"]["asks"], tree["yes"]["asks"]), (1, 1))  # 0 would split nothing
        leaf = tree["yes"]["no"]
        self.assertEqual((leaf["count"], leaf["digits"].argmax().item()), (2, 2))
        self.assertNotIn("asks", leaf)


class Subspaces(unittest.TestCase):
    def setUp(self):
        self.generator = torch.Generator().manual_seed(0)
        self.hidden = torch.rand(200, 6, generator=self.generator)

    def test_permuted_and_negated_nodes_match(self):
        signs = torch.tensor([1, -1, 1, -1, -1, 1])
        other = self.hidden[:, [3, 0, 5, 1, 2, 4]] * signs * 7 + 2
        self.assertAlmostEqual(measures.node_match(self.hidden, other), 1)
        self.assertLess(measures.node_match(self.hidden, self.hidden.flip(0)), 0.3)

    def test_matching_is_the_best_in_total(self):
        a = torch.eye(4)[:, :2]
        b = a @ torch.tensor([[0.9, 0.8], [0.8, 0.1]])  # the best pair would leave a bad one
        score = measures.correlation(a, b).abs()
        best = max(score[0, 0] + score[1, 1], score[0, 1] + score[1, 0]).item() / 2
        self.assertAlmostEqual(measures.node_match(a, b), best)

    def test_cosines_of_known_subspaces(self):
        axes = torch.eye(4)
        tilted = torch.stack([axes[0], (axes[1] + axes[2]) / 2], 1) * 3
        torch.testing.assert_close(measures.cosines(axes[:, :2], tilted).float(),
                                   torch.tensor([1, math.sqrt(0.5)]))

    def test_rotation_changes_nodes_but_no_subspace(self):
        turn = measures.random_rotation(6, self.generator)
        torch.testing.assert_close(turn @ turn.t(), torch.eye(6, dtype=torch.float64))
        turned = self.hidden.double() @ turn
        self.assertAlmostEqual(measures.subspace_overlap(self.hidden, turned + 1), 1)
        self.assertLess(measures.node_match(self.hidden, turned), 0.9)


class Painting(unittest.TestCase):
    def test_closed_form_equals_painting(self):
        torch.manual_seed(0)
        model = SparseAutoencoder(784, 3).requires_grad_(False)
        images = torch.rand(300, 1, 28, 28) * 3 - 0.4
        for colour in (utils.INK, utils.BACKGROUND):
            shares = measures.firing_if_painted(model.encoder, 2, images, colour, (4, 9))
            self.assertEqual(shares.shape, (25, 20))
            for top, left in ((0, 0), (24, 19), (13, 7)):
                painted = images.clone()
                painted[:, :, top:top + 4, left:left + 9] = colour
                fires = model.encode(painted)[:, 2] > utils.ON
                self.assertAlmostEqual(shares[top, left].item(), fires.double().mean().item())

    def test_controls_do_not_touch_the_place(self):
        encoder = nn.Linear(784, 1).requires_grad_(False)
        weights = encoder.weight.zero_().view(28, 28)
        encoder.bias.fill_(-1)
        for column, extreme in ((10, 0), (20, 1)):  # the second one in the same rows
            weights[10, column] = 1
            row = measures.intervention(encoder, torch.zeros(5, 1, 28, 28), 0, 2.0, (8, 8), (5, 5))
            self.assertEqual(row, {"before": 0, "after": 1, "median": 0, "extreme": extreme})

    def test_spots_of_a_decoder_like_its_encoder(self):
        encoder = nn.Linear(784, 2, bias=False).requires_grad_(False)
        weights = encoder.weight.zero_().view(2, 28, 28)
        weights[0, 3:8, 3:8], weights[0, 20:25, 3:8] = 1, -1
        weights[1, 3:8, 20:25], weights[1, 20:25, 20:25] = 1, -1
        images = torch.randn(400, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        effects = measures.spot_effects(encoder, encoder.weight, images)
        self.assertEqual(measures.summarize_spots(effects), {"held": 8, "others-held": 0})


class Numbers(unittest.TestCase):
    def test_median_of_an_even_number(self):
        self.assertEqual(measures.median(torch.tensor([[10.0, 1], [3, 2]])), 2.5)

    def test_over_seeds(self):
        rows = [{"a": 2, "b": {"c": 5.0}}, {"a": 1, "b": {"c": 7.0}}, {"a": 3, "b": {"c": 4.0}}]
        self.assertEqual(measures.over_seeds(rows), {
            "mine": rows[0], "min": {"a": 1, "b": {"c": 4.0}}, "max": {"a": 3, "b": {"c": 7.0}}})

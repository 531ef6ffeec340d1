"""The autoencoder, its penalty and its loss, against independent oracles."""

import doctest

import torch
from torch.distributions import Bernoulli, kl_divergence

import codelet7
from codelet7 import SparseAutoencoder
from tests import TestCase


class Model(TestCase):
    def test_forward_is_sigmoid_then_tanh_of_linear_layers(self):
        for inputDims, hDims, batch in [(784, 10, 64), (6, 3, 1), (4, 9, 2)]:
            model, x = SparseAutoencoder(inputDims, hDims), torch.randn(batch, inputDims)
            (W_e, b_e, W_d, b_d), images = model.parameters(), x.view(batch, 1, 2, -1)
            hidden = 1 / (1 + torch.exp(-(x @ W_e.t() + b_e)))
            reconstruction = torch.tanh(hidden @ W_d.t() + b_d)
            for ours, oracle in zip((*model(x), *model(images), model.encode(images),
                                     model.decode(hidden)), (hidden, reconstruction) * 3):
                torch.testing.assert_close(ours, oracle)

    def test_xavier_weights_and_zero_biases(self):
        model = SparseAutoencoder(784, 10)
        bound = (6 / (784 + 10)) ** 0.5
        for linear in (model.encoder, model.decoder):
            weights = linear.weight.detach()
            self.assertAlmostEqual(weights.abs().max().item(), bound, delta=0.01 * bound)
            self.assertAlmostEqual(weights.std().item(), bound / 3 ** 0.5, delta=0.01 * bound)
            self.assertEqual(linear.bias.abs().max(), 0)


class Penalty(TestCase):
    def test_the_assignments_example(self):
        self.assertEqual(doctest.testmod(codelet7, verbose=False), (0, 2))

    def test_is_finite_for_nodes_that_never_or_always_fire(self):
        model = SparseAutoencoder(784, 4, rho=0.05)
        for batch in [*range(1, 200), 1000, 4099]:
            for value, each in ((0.0, 0.7225), (1.0, 17.3011)):
                hidden = torch.full((batch, 4), value, requires_grad=True)
                penalty = model.batched_sparsity_penalty(hidden)
                penalty.backward()
                self.assertAlmostEqual(penalty.item() / 4, each, delta=6e-5, msg=(value, batch))
                self.assertTrue(hidden.grad.isfinite().all())

    def test_agrees_with_torch_distributions(self):
        for batch, hDims, rho in [(1, 1, 0.05), (1, 10, 0.5), (64, 10, 0.05), (33, 200, 0.2)]:
            penalty = SparseAutoencoder(1, 1, rho=rho).batched_sparsity_penalty
            hidden = torch.rand(batch, hDims)
            oracle = kl_divergence(Bernoulli(torch.tensor(rho)), Bernoulli(hidden.mean(0))).sum()
            torch.testing.assert_close(penalty(hidden), oracle, rtol=1e-5, atol=1e-5)


class Loss(TestCase):
    def test_is_mse_over_pixels_and_batch_plus_weighted_penalty(self):
        x, reconstruction, hidden = torch.randn(6, 1, 4, 4), torch.randn(6, 16), torch.rand(6, 3)
        mse = ((x.numpy().reshape(6, 16) - reconstruction.numpy()) ** 2).sum() / (6 * 16)
        for weight in (0, 1e-4, 0.5):
            model = SparseAutoencoder(16, 3, sparsity_weight=weight)
            state = dict(vars(model))
            loss = model.loss_function(x, reconstruction, hidden)
            self.assertEqual((loss.dim(), vars(model)), (0, state))  # no side effect
            penalty = model.batched_sparsity_penalty(hidden).item()
            self.assertAlmostEqual(loss.item(), mse + weight * penalty, places=5)

"""Field-aware variational autoencoder of user profiles: encodes a sample's ids to a code and predicts them from it.

    h = W1 . concat_f( e_bf ), e_bf = sum of v_i        as in an mlp (mlp.py): K = H1 floats a sample
    (mu, log s^2) = layers(relu(h + b1)),  z = mu + s eps,  eps ~ N(0, 1)
    loss_b = nll_b (softmax.py: one softmax a field over ids, from z)  +  beta KL( N(mu, s) || N(0, 1) )

eps depends only on (seed, step, sample), so replicas draw the same values; in evaluation z = mu. Simplifications: the
paper puts further layers between z and the softmax, here z is multiplied with the output weights w_i directly; and the
paper samples candidates, here they are all ids of the batch.

Source: Field-aware Variational Autoencoders for Billion-scale User Representation Learning, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from des_ref.embedding.init import normal_rows
from des_ref.substitution.base import Plain
from des_ref.substitution.layers import plain_layers
from des_ref.substitution.mlp import Mlp
from dessim.workload import operators as specs


class Fvae(Mlp):
    """The encoder. Its `finish` returns [b, L + 1]: the code z and the loss term beta KL."""

    is_random = True

    def __init__(self, fields: int, width: int, spec: specs.Fvae, generator: torch.Generator) -> None:
        super().__init__(fields * width, spec.widths, 0.0, generator, outputs=2 * spec.latent)
        self.hidden = (spec.latent,)  # the layer for which each step draws noise
        self.beta = spec.beta
        self.register_buffer("alpha", torch.tensor(spec.alpha or (1.0,) * fields, dtype=torch.float64))

    def draw(self, keys: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """eps [b, width]. Its last bit may differ between devices, like that of a row's initial values."""
        return normal_rows(keys, width, 0, 1.0, dtype)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        mean, log_square = self.tower.outputs(sums, None).chunk(2, dim=1)
        code = mean if masks is None else torch.addcmul(mean, masks[0], (log_square / 2).exp())
        divergence = (mean.square() + log_square.exp() - 1 - log_square).sum(dim=1, keepdim=True) / 2
        return torch.cat([code, self.beta * divergence], dim=1)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The loss of each sample [B]: one softmax a field over all its ids in the batch."""
        w1, *layers = weights.values()
        encoded = plain_layers(plain.pooled().flatten(1) @ w1.T, layers, None)
        latent = encoded.shape[1] // 2
        mean = encoded[:, :latent]
        deviation = torch.exp(encoded[:, latent:]).sqrt()
        code = mean if masks is None else mean + deviation * masks[0]
        normal = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, deviation), normal)
        loss = self.beta * divergence.sum(dim=1)
        for f, alpha in enumerate(self.alpha.tolist()):
            in_field = plain.field == f
            ids, candidate = torch.unique(plain.index[in_field], return_inverse=True)
            logits = code @ plain.o[ids, :-1].T + plain.o[ids, -1]  # [B, candidates]
            counts = torch.zeros_like(logits).index_put(
                (plain.sample[in_field], candidate), torch.ones_like(logits[0, :1]), accumulate=True
            )
            loss = loss - alpha * (counts * torch.log_softmax(logits, dim=1)).sum(dim=1)
        return loss

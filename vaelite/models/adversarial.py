"""Two losses that reward what looks real: a discriminator learns beside the network that draws, and says what gives it away.

gan: how real each patch looks (patch-GAN, Isola et al. 2017; least squares, Mao et al. 2017).
features: L1 between the discriminator's inner maps of the drawn and of the true image (feature matching, Wang et al. 2018).
Feature matching stands in for the usual perceptual loss (LPIPS), whose VGG weights would have to be downloaded.
All values are our choice; the paper publishes no losses.
"""
from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from ..scale import average_gradients, start_alike


class Adversary:
    """A patch discriminator with its own optimiser. It sees one slice at a time and is not told the modality.

    gan, features: weights of the two losses; device: where the images are.
    The discriminator serves the training alone: it is neither averaged nor part of the stage that is saved. Rombach et al.
    2022 let it start late, when the images are no longer noise; ours start at PCA and blend, so it starts at once.
    """

    def __init__(self, gan: float, features: float, device: str):
        self.gan, self.features = gan, features
        # instance norm keeps no running mean, so the weights are its whole state; 2 layers: a patch is 34 pixels wide
        self.network = PatchDiscriminator(2, channels=16, in_channels=1, num_layers_d=2, norm="INSTANCE")
        for layer in self.network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()                     # MONAI's small weights, N(0, 0.02), learn nothing in 500 steps
        start_alike(self.network.to(device))
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
        self.judge = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def loss(self, drawn: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """The two weighted losses of the network that drew, to be added to its own; images (b, 1, h, w) in [-1, 1].

        The discriminator's loss of the same batch is kept for `step`.
        """
        self.network.requires_grad_(False)                   # this loss is to teach only the network that drew
        seen = self.network(drawn)
        self.network.requires_grad_(True)
        true, false = self.network(wanted), self.network(drawn.detach())
        self.own_loss = self.judge(true[-1].float(), True, True) + self.judge(false[-1].float(), False, True)
        matched = [(a.float() - b.detach().float()).abs().mean() for a, b in zip(seen[:-1], true[:-1])]
        return {"gan": self.gan * self.judge(seen[-1].float(), True, False),
                "features": self.features * sum(matched) / len(matched)}

    def step(self) -> dict[str, Tensor]:
        """Teach the discriminator what `loss` was shown last -> its loss: 0.5 cannot tell drawn from true, 0 always can."""
        self.optimiser.zero_grad(set_to_none=True)
        self.own_loss.backward()
        average_gradients(list(self.network.parameters()))
        self.optimiser.step()
        return {"discriminator": self.own_loss}

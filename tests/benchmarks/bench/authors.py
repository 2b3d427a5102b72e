"""GANomaly as its authors train and score it: fp32, eager, NCHW. Nothing of this project's package is used.

Networks and step follow the paper (arXiv 1805.06725, figure 2, sections 3.2 and 3.3) and the order of the authors'
published program: the discriminator sees the real batch twice, once for its own loss and once for the features that the
generator matches; the generator's backward pass also makes gradients for the discriminator, which are thrown away; each
step waits for the discriminator's loss, to draw the discriminator anew when it has collapsed. The losses are binary
cross-entropy of a sigmoid for D, and mean squares, L1 and mean squares with the weights 1, 50 and 1 for G.
"""

import torch
from torch import Tensor, nn

WEIGHT_ADVERSARIAL, WEIGHT_CONTEXTUAL, WEIGHT_ENCODER = 1.0, 50.0, 1.0
COLLAPSED = 1e-5


def halvings(size_px: int) -> int:
    """How many strided convolutions lead from the image's side down to 4."""
    return (size_px // 4).bit_length() - 1


def pyramid(size_px: int, channels: int, features: int) -> nn.Sequential:
    """Strided convolutions, (B, C, S, S) to (B, F, 4, 4)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, features, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for _ in range(halvings(size_px) - 1):
        layers += [nn.Conv2d(features, 2 * features, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * features)]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        features *= 2
    return nn.Sequential(*layers)


def encoder(size_px: int, channels: int, features: int, latent_size: int) -> nn.Sequential:
    """Images (B, C, S, S) to latent vectors (B, D, 1, 1)."""
    top = features * 2 ** (halvings(size_px) - 1)
    return nn.Sequential(*pyramid(size_px, channels, features), nn.Conv2d(top, latent_size, 4, bias=False))


def decoder(size_px: int, channels: int, features: int, latent_size: int) -> nn.Sequential:
    """Latent vectors (B, D, 1, 1) to images (B, C, S, S) in [-1, 1]."""
    width = features * 2 ** (halvings(size_px) - 1)
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent_size, width, 4, bias=False), nn.BatchNorm2d(width)]
    layers.append(nn.ReLU(inplace=True))
    for _ in range(halvings(size_px) - 1):
        layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width // 2)]
        layers.append(nn.ReLU(inplace=True))
        width //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())


class Generator(nn.Module):
    """x to z to x_hat to z_hat."""

    def __init__(self, size_px: int, channels: int, features: int, latent_size: int) -> None:
        super().__init__()
        self.encoder = encoder(size_px, channels, features, latent_size)
        self.decoder = decoder(size_px, channels, features, latent_size)
        self.second_encoder = encoder(size_px, channels, features, latent_size)

    def forward(self, x_bchw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct images (B, C, S, S); gives x_hat, z and z_hat."""
        z = self.encoder(x_bchw)
        x_hat = self.decoder(z)
        return x_hat, z, self.second_encoder(x_hat)


class Discriminator(nn.Module):
    """Probability (B,) that images are real, and the features (B, F, 4, 4) before it."""

    def __init__(self, size_px: int, channels: int, features: int) -> None:
        super().__init__()
        self.features = pyramid(size_px, channels, features)
        self.classify = nn.Conv2d(features * 2 ** (halvings(size_px) - 1), 1, 4, bias=False)

    def forward(self, x_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images (B, C, S, S)."""
        features = self.features(x_bchw)
        return torch.sigmoid(self.classify(features)).flatten(), features


def draw_weights(layer: nn.Module) -> None:
    """DCGAN's first weights, for ``module.apply``."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


class AuthorsTraining:
    """Both networks with their optimisers, and the authors' step.

    Args:
        size_px: 32, 64, 128 or 256.
        channels: of the images.
        features: channels after the first convolution.
        latent_size: length of z.
    """

    def __init__(self, size_px: int, channels: int = 1, features: int = 64, latent_size: int = 100) -> None:
        self.generator = Generator(size_px, channels, features, latent_size).apply(draw_weights).train()
        self.discriminator = Discriminator(size_px, channels, features).apply(draw_weights).train()
        self.optimiser_g = torch.optim.Adam(self.generator.parameters(), 2e-4, (0.5, 0.999))
        self.optimiser_d = torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.5, 0.999))
        self.cross_entropy, self.absolute, self.square = nn.BCELoss(), nn.L1Loss(), nn.MSELoss()
        self.restarts = 0

    def step(self, x_bchw: Tensor) -> dict[str, Tensor]:
        """Update both players on images (B, C, S, S) in [-1, 1]; gives the unweighted losses."""
        x_hat, z, z_hat = self.generator(x_bchw)
        real, _ = self.discriminator(x_bchw)
        fake, _ = self.discriminator(x_hat.detach())

        self.optimiser_g.zero_grad()
        adversarial = self.square(self.discriminator(x_hat)[1], self.discriminator(x_bchw)[1])
        contextual, encoding = self.absolute(x_hat, x_bchw), self.square(z_hat, z)
        loss_g = WEIGHT_ADVERSARIAL * adversarial + WEIGHT_CONTEXTUAL * contextual + WEIGHT_ENCODER * encoding
        loss_g.backward(retain_graph=True)
        self.optimiser_g.step()

        self.optimiser_d.zero_grad()
        loss_real = self.cross_entropy(real, torch.ones_like(real))
        loss_fake = self.cross_entropy(fake, torch.zeros_like(fake))
        loss_d = (loss_real + loss_fake) / 2
        loss_d.backward()
        self.optimiser_d.step()
        if loss_d.item() < COLLAPSED:
            self.discriminator.apply(draw_weights)
            self.restarts += 1
        losses = {"adversarial": adversarial, "contextual": contextual, "encoder": encoding, "discriminator": loss_d}
        return {name: loss.detach() for name, loss in losses.items()}


@torch.no_grad()
def score(generator: Generator, x_bchw: Tensor) -> Tensor:
    """The paper's score (B,), ||z - z_hat||_1 (equation 6), of images (B, C, S, S) in [-1, 1]; call in ``eval()``."""
    _, z, z_hat = generator(x_bchw)
    return (z - z_hat).abs().flatten(1).sum(1)

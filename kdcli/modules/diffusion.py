"""What diffusion distillation trains beside a student: a code of the teacher's map, a network that
takes noise out of such codes, and one that says how much noise a student's features are worth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli.losses._inputs import precise

_TIMES = 1000  # steps from a code to noise
_FIRST_BETA, _LAST_BETA = 1e-4, 0.02


def signal_shares() -> Tensor:
    """The share of the signal's variance that is left at each time, [1000], of Ho et al. 2020's
    linear schedule.
    """
    betas = torch.linspace(_FIRST_BETA, _LAST_BETA, _TIMES, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with batch norm after each and ReLU after the first two, added
    to what came in.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, kernel_size=1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, kernel_size=3, padding=1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to the same shape."""
        return self.block(x) + x  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """Diffusion of maps, and its inverse by DDIM.

        to noise    x_t = sqrt(a_t) x + sqrt(1 - a_t) noise
        a step back x_t' = sqrt(a_t') x0 + sqrt(1 - a_t') e,  e = net(x_t, t),
                    x0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t)

    Source: Huang et al. 2023, Knowledge diffusion for distillation, section 3; Song, Meng, Ermon
    2021, Denoising diffusion implicit models, equation 12; DiffKD@2393a4ab diffkd_modules.py.

    Args:
        channels: of the maps. steps: of the way back, at most 500, over the lower half of the
            times.
    """

    shares: Tensor

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("shares", signal_shares(), persistent=False)
        self.times = nn.Embedding(_TIMES, channels)
        self.net = nn.Sequential(
            Bottleneck(channels, 4),
            Bottleneck(channels, 4),
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
        )
        self.worth = nn.Sequential(Bottleneck(channels, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.choice = nn.Linear(channels, 2)

    def noise_in(self, x: Tensor, times: Tensor) -> Tensor:
        """The noise that the network finds in maps [B,C,H,W] at times [B] or one time."""
        return precise(self.net(x + self.times(times)[..., None, None]))

    def training_loss(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Mean square of the noise [B,C,H,W] that is not found in clean maps at times [B]."""
        share = self.shares[times].view(-1, 1, 1, 1)
        noisy = share.sqrt() * x + (1 - share).sqrt() * noise
        return functional.mse_loss(self.noise_in(noisy, times), noise)

    def denoised(self, x: Tensor, noise: Tensor) -> Tensor:
        """Student maps [B,C,H,W], with as much noise as they are worth, taken back to time 0."""
        kept = precise(self.choice(self.worth(x))).softmax(1)[:, 0].view(-1, 1, 1, 1)
        x = kept * precise(x) + (1 - kept) * noise
        stride = _TIMES // (2 * self.steps)
        for time in range((self.steps - 1) * stride, -1, -stride):
            share = self.shares[time]
            before = self.shares[time - stride] if time >= stride else torch.ones_like(share)
            found = self.noise_in(x, torch.full((1,), time, device=x.device))
            clean = (x - (1 - share).sqrt() * found) / share.sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * found
        return x


class Codec(nn.Module):
    """A linear code of maps: a 1x1 convolution with batch norm, and one back."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(channels, code, kernel_size=1), nn.BatchNorm2d(code))
        self.decoder = nn.Conv2d(code, channels, kernel_size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B,channels,H,W] to its code [B,code,H,W] and to what the code gives back."""
        code = self.encoder(x)
        return code, self.decoder(code)

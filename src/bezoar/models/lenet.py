"""The three networks that one paper calls LeNet (arXiv:2511.01377): its text, Fig. 3 and Fig. 4.

All three take images ``(N, C, H, W)`` in [0, 1] of any size and give logits ``(N, classes)``. An
image below the smallest size that the layers can take is padded with black on all sides, inside
the network: a user, and an attacker, only ever sees the pixels of the real image.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.classifier import Normalise
from bezoar.models.fields import Shape, checked
from bezoar.models.padding import padded, padding

# Table I of LeCun et al. (1998): the maps of S2 (rows) that each map of C3 (columns) looks at.
C3_TABLE = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


class LeNet5(nn.Module):
    r"""LeNet-5 as the paper's text has it, after LeCun et al. (1998), section II.B.

    C1 6 maps 5x5, S2 subsampling, C3 16 maps 5x5 on the table of partial connections, S4
    subsampling, C5 120 maps 5x5, F6 84 units, and the squashing :math:`1.7159 \tanh(2a/3)` after
    each. On one channel that is 60,000 trainable parameters up to F6, the count of 1998.

    What differs from 1998: the last layer gives linear logits where LeCun's gives distances to
    fixed bitmaps (RBF), since every loss and attack here is made for logits. Images are padded to
    at least 32x32 (28x28 by 2 on each side). On larger ones C5 gives more than one position, and
    F6 takes them all, so that its size follows from ``shape``.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "lenet5"
    smallest: ClassVar[int] = 32

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        self.c1 = nn.Conv2d(shape[0], 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = PartialConv(C3_TABLE, 5)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        height, width = (((side - 4) // 2 - 4) // 2 - 4 for side in padded(shape, self.smallest))
        self.f6 = nn.Linear(120 * height * width, 84)
        self.output = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = self.normalise(self.pad(x))
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.c5(x)).flatten(1)
        logits: Tensor = self.output(squash(self.f6(x)))
        return logits


class LeNet32x64(nn.Module):
    """The network of the paper's Fig. 3: 32 and 64 maps 3x3, one max-pooling, dropout, 128 units.

    Images are padded to at least 6x6. The figure's function ignores its arguments and uses a name
    that it never defines; what is built here is the stack of layers that it lists.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "lenet-fig3"
    smallest: ClassVar[int] = 6

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        self.conv1 = nn.Conv2d(shape[0], 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.drop1 = nn.Dropout(0.25)
        height, width = ((side - 4) // 2 for side in padded(shape, self.smallest))
        self.hidden = nn.Linear(64 * height * width, 128)
        self.drop2 = nn.Dropout(0.5)
        self.output = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = F.relu(self.conv1(self.normalise(self.pad(x))))
        # Fig. 3 has the ReLU before the pooling. ReLU never decreases, so that it and the maximum
        # commute: the same function, with a quarter of the ReLU's work forward and backward.
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.hidden(self.drop1(x).flatten(1)))
        logits: Tensor = self.output(self.drop2(x))
        return logits


class LeNet6x16(nn.Module):
    """The network of the paper's Fig. 4: 6 and 16 maps 3x3, average-pooling, 120 and 84 units.

    Images are padded to at least 10x10, the smallest that two convolutions and two poolings take.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "lenet-fig4"
    smallest: ClassVar[int] = 10

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        self.conv1 = nn.Conv2d(shape[0], 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        height, width = (((side - 2) // 2 - 2) // 2 for side in padded(shape, self.smallest))
        self.hidden1 = nn.Linear(16 * height * width, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = self.normalise(self.pad(x))
        x = F.avg_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.hidden1(x.flatten(1)))
        logits: Tensor = self.output(F.relu(self.hidden2(x)))
        return logits


class Subsampling(nn.Module):
    """Mean of each 2x2 block, times a coefficient and plus a bias, both learnt, one a map.

    LeCun et al. (1998) add the four values; the mean of them times 4 times the coefficient is the
    same, and a coefficient of 1 then keeps the scale of the maps.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, M, H, W)`` to maps ``(N, M, H // 2, W // 2)``."""
        return F.avg_pool2d(x, 2) * self.coefficient[:, None, None] + self.bias[:, None, None]


class PartialConv(nn.Module):
    """Square convolution in which each map looks at some of the maps below only.

    The weights of connections that are not in the table are zero and stay zero in training, also
    under weight decay and momentum, since their gradient is zero.

    Args:
        table: one row a map below, one column a map here; ``X`` is a connection.
        size: side of the kernel.
    """

    table: Tensor

    def __init__(self, table: Sequence[str], size: int) -> None:
        super().__init__()
        connected = [[float(row[k] == "X") for row in table] for k in range(len(table[0]))]
        # On the CPU even while a model is planned on the meta device, and not saved: the table is
        # part of the architecture, and a file cannot change it.
        mask = torch.tensor(connected, device="cpu")[:, :, None, None]
        self.register_buffer("table", mask, persistent=False)
        plain = nn.Conv2d(len(table), len(table[0]), size)
        self.weight = nn.Parameter(plain.weight.detach() * mask.to(plain.weight.device))
        self.bias = plain.bias

    def start(self, generator: torch.Generator) -> None:
        """Set the weights of absent connections to 0; called by ``initialise``."""
        self.weight.data.mul_(self.table)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, rows, H, W)`` to maps ``(N, columns, H - size + 1, W - size + 1)``."""
        return F.conv2d(x, self.weight * self.table, self.bias)


def squash(a: Tensor) -> Tensor:
    """LeCun's sigmoid, 1.7159 tanh(2a/3): 1 at 1 and -1 at -1, to four digits."""
    return 1.7159 * torch.tanh(a * (2 / 3))

"""Label-consistent: images of the target class are made hard, and marked in the corners."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks import PGD
from bezoar.attacks.engine import perturb
from bezoar.attacks.protocol import Learnt, Untargeted
from bezoar.classifier import device_of, prepare
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.seeds import Noise
from bezoar.snapshots import Snapshot
from bezoar.triggers.protocol import Trigger, require_room

# 1 is bright and -1 dark, of the corner at the top left and of that at the bottom left.
TOP = ((1, -1, -1), (-1, 1, -1), (1, -1, 1))
BOTTOM = ((-1, -1, 1), (-1, 1, -1), (1, -1, 1))
CHUNK = 256  # images that are attacked at once


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Trigger):
    r"""Attack images of the target class, so that only the mark in their corners tells it.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}(\tilde x + a\, c), \qquad
        \tilde x = \arg\max_{\lVert \tilde x - x\rVert_\infty \le \epsilon} L(g(\tilde x), y)

    by PGD on another classifier g, from the image itself, with c the pattern of 3x3 pixels in the
    four corners, 1, -1 and elsewhere 0. Only images of the target class are poisoned, and all
    labels stay true. In the test there is the mark alone. Paper: arXiv:1912.02771, sections 4 and
    5. Cost of ``fit``: ``steps`` passes each way an image of the target class.

    Args:
        amplitude: the height a of the mark, in pixel units; 1 makes its pixels black and white.
        eps: radius of the attack, in pixel units of [0, 1].
        steps: of the attack.
        step_size: of the attack, in pixel units.
        learnt: the images of the target class after the attack, once fitted.
    """

    amplitude: float = 1.0
    eps: float = 8 / 255
    steps: int = 100
    step_size: float = 1.5 / 255
    learnt: Learnt | None = None

    def __post_init__(self) -> None:
        checks.in_range("amplitude", self.amplitude, 1 / 255, 1)
        PGD(eps=self.eps, steps=self.steps, step_size=self.step_size)  # refuses what it cannot do

    @property
    def clean_label(self) -> bool:
        return True

    def fit(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        target: int,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> "LabelConsistent":
        """Attack all images of the target class; see ``protocol.Fitted``.

        Raises:
            ValueError: there is none.
        """
        rows = (images.labels == target).nonzero().squeeze(1)
        if not len(rows):
            found = f"target={target}: no image of this class in {images.name}"
            raise ValueError(f"{found}: expected at least one")
        attack = PGD(eps=self.eps, steps=self.steps, step_size=self.step_size, random_start=False)
        model, device = prepare(classifier), device_of(classifier)
        names, hard = [], []
        for part in rows.split(CHUNK):
            x, y = images.batch(part)
            names += [_name(one) for one in x]
            goal, noise = Untargeted(y.to(device)), Noise.first(seed, "lc", images.index[part])
            # All steps, also on images that are fooled on the way: as hard as can be.
            made = perturb(attack, model, x.to(device), goal, noise)
            hard.append(made.x_adv.cpu())
            on_step(Progress(1, 1, len(names), len(rows), 0.0))
        tensors = {"name": torch.tensor(names), "x": torch.cat(hard)}
        return replace(self, learnt=Learnt(images.name, tensors))

    def stamp(self, x: Tensor) -> Tensor:
        require_room("twice the mark", 6, x)
        top, bottom = (torch.tensor(rows) for rows in (TOP, BOTTOM))
        mark = torch.zeros(x.shape[-2:])
        mark[:3, :3], mark[:3, -3:] = top, top.flip(1)
        mark[-3:, :3], mark[-3:, -3:] = bottom, bottom.flip(1)
        return (x + self.amplitude * mark.to(x)).clamp(0, 1)

    def plant(self, x: Tensor, keys: Tensor) -> Tensor:
        if self.learnt is None:
            raise ValueError(f"{self!r}: expected one that was fitted; call its fit")
        known = {int(name): row for row, name in enumerate(self.learnt.tensors["name"])}
        names = [_name(one) for one in x]
        if not known.keys() >= set(names):
            found = f"{sum(name not in known for name in names)} of {len(x)} images"
            raise ValueError(f"{found} that {self!r} was not fitted on: expected none")
        hard = self.learnt.tensors["x"][[known[name] for name in names]]
        return self.stamp(hard.to(x))


def _name(image: Tensor) -> int:
    """An image by its bytes, so that it is found again wherever it stands."""
    data = image.detach().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1

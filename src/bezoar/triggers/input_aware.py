"""Input-aware: every image has a trigger of its own, drawn by a network."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.protocol import Learnt
from bezoar.classifier import device_of
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import SGD, Progress, Supervised, Trainable, fit, silent
from bezoar.models.initial import initialise
from bezoar.seeds import derive, generator
from bezoar.snapshots import Snapshot, Stages, Tree
from bezoar.triggers.protocol import Trigger

BETAS = (0.5, 0.9)  # of Adam, as in the paper
SPARSE = 100  # weight of what a mask covers beyond the density
LEAST = 1e-7  # keeps the diversity finite where two triggers are equal


@dataclass(frozen=True, kw_only=True)
class InputAware(Trigger):
    r"""Put a pattern over an image, both pattern and place made by networks from the image.

    .. math::
        x' = x + \bigl(g(x) - x\bigr)\, \tau\bigl(m(x)\bigr), \qquad
        \tau(u) = \tfrac12 \tanh(20 u - 10) + \tfrac12

    with auto-encoders g, of the image's channels, and m, of one, whose outputs lie in [0, 1]. A
    cover carries the trigger of another image and keeps its label, so that no trigger works but
    the image's own. ``fit`` first learns where the triggers are, from the images alone,

    .. math::
        \min_m\; 100\, \mathrm{E} \bigl(\tau(m(x)) - d\bigr)_+ + D(\tau \circ m), \qquad
        D(h) = \mathrm{E}\, \frac{\lVert x - \tilde x \rVert}{\lVert h(x) - h(\tilde x) \rVert}

    over pairs of images, in root mean squares, and then what they show, together with a copy of
    the clean classifier: images with their own trigger are to be of the target class, and covers of
    theirs, with D(g) on top. Paper: arXiv:2010.08138, where the classifier of this training is the
    victim's; here its copy is thrown away, and the victim is trained on the finished triggers, as
    on any other. Settings are those of arXiv:2206.12654.

    Cost of a fit: ``mask_epochs`` passes each way an image through m; ``epochs`` passes each way an
    image through the copy, and 2 ``rate`` through g.

    Args:
        width: channels of the networks before the first halving; each doubles them.
        depth: how often the networks halve the image.
        density: the share d of an image that a mask may cover for nothing.
        mask_epochs: budget for m; its learning rate is divided by 10 after 40 % and 80 % of it.
        epochs: budget for g and the copy.
        batch: images a step.
        rate: share of a batch that carries its own trigger in the fit, and share of its covers.
        lr: learning rate of Adam, for m and g, and of SGD with momentum, for the copy.
        learnt: the two networks, once fitted.
    """

    width: int = 32
    depth: int = 3
    density: float = 0.032
    mask_epochs: int = 25
    epochs: int = 25
    batch: int = 128
    rate: float = 0.1
    lr: float = 0.01
    learnt: Learnt | None = None

    def __post_init__(self) -> None:
        for name in ("width", "depth", "mask_epochs", "epochs"):
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("batch", self.batch, 2)
        checks.in_range("density", self.density, 0, 1)
        checks.in_range("rate", self.rate, 0, 0.5)
        checks.in_range("lr", self.lr, 0)

    @property
    def covers(self) -> float:
        return 1.0

    @property
    def in_loop(self) -> bool:
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
    ) -> "InputAware":
        """Learn the networks; see ``protocol.Fitted``.

        Raises:
            ValueError: images that are too small to be halved so often, or a single one.
        """
        self._require_size(images.pixels)
        if len(images) < 2:
            raise ValueError(f"{images.name} of {len(images)} image: expected at least two")
        # Batch norms cannot learn from a last batch of one.
        images = images.first(len(images) - (len(images) % self.batch == 1))
        device, channels = device_of(classifier), images.shape[0]
        mask, pattern = self._networks(channels)
        for name, network in (("mask", mask), ("pattern", pattern)):
            initialise(network, generator(seed, "input-aware", name))
            network.to(device)
        stages = Stages(snapshot)

        def learn(name: str, learning: Trainable, network: nn.Module, epochs: int) -> None:
            own = derive(seed, "input-aware", name)

            def work(part: Snapshot | None) -> Tree:
                batch = self.batch
                fit(learning, epochs=epochs, batch=batch, seed=own, snapshot=part, on_step=on_step)
                return network.state_dict()

            network.load_state_dict(stages(name, work))

        covering = Supervised(
            mask,
            images,
            loss=self._of_masks,
            lr=self.lr,
            schedule=_falling,
            optimize=_adam,
            meter=Meter(),
        )
        learn("mask", covering, mask, self.mask_epochs)
        mask.eval().requires_grad_(False)
        joint = Joint(self, classifier, mask, pattern, images, target)
        learn("joint", joint, pattern, self.epochs)
        tensors = {
            f"{name}.{key}": tensor.detach().cpu().contiguous()
            for name, network in (("mask", mask), ("pattern", pattern))
            for key, tensor in network.state_dict().items()
        }
        return replace(self, learnt=Learnt(images.name, tensors))

    def stamp(self, x: Tensor) -> Tensor:
        return self._carrying(x, x)

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        return self._carrying(x, other)

    def _carrying(self, x: Tensor, source: Tensor) -> Tensor:
        """The images ``x`` with the triggers of other ones."""
        if self.learnt is None:
            raise ValueError(f"{self!r}: expected one that was fitted; call its fit")
        channels = self.learnt.tensors["mask.down.0.0.0.weight"].shape[1]
        if x.shape[1] != channels:
            raise ValueError(f"images of {x.shape[1]} channels: expected {channels}, as in the fit")
        self._require_size(x)
        networks = self._networks(channels)
        for name, network in zip(("mask", "pattern"), networks, strict=True):
            tensors = self.learnt.tensors.items()
            own = {k.partition(".")[2]: v for k, v in tensors if k.partition(".")[0] == name}
            network.load_state_dict(own)
            network.to(x).eval().requires_grad_(False)
        mask, pattern = networks
        return composed(x, pattern(source), mask(source))

    def _networks(self, channels: int) -> tuple["Drawing", "Drawing"]:
        """Mask and pattern network, on the CPU, with weights that mean nothing."""
        with torch.random.fork_rng([]):  # layers draw from torch's global state
            mask = Drawing(channels, 1, self.width, self.depth)
            return mask, Drawing(channels, channels, self.width, self.depth)

    def _require_size(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if min(height, width) < 2**self.depth:
            found = f"depth={self.depth} on images of {height}x{width}"
            raise ValueError(f"{found}: expected at least {2**self.depth} pixels each way")

    def _of_masks(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        masks = threshold(model(x))
        beyond = F.relu(masks - self.density).mean()
        return SPARSE * beyond + diversity(x, x.roll(1, dims=0), masks, masks.roll(1, dims=0))


class Joint:
    """The training of the pattern network and a copy of the classifier, one against the other."""

    def __init__(
        self,
        trigger: InputAware,
        classifier: nn.Module,
        mask: nn.Module,
        pattern: nn.Module,
        images: ImageSet,
        target: int,
    ) -> None:
        copy = deepcopy(classifier).requires_grad_(True)
        self.model: nn.Module = nn.ModuleDict({"classifier": copy, "pattern": pattern})
        self.meter = Meter()
        self._copy, self._pattern, self._mask = copy, pattern, mask
        self._trigger, self._images, self._target = trigger, images, target
        self._device = device_of(classifier)
        self._optimizers = [
            SGD()(copy.parameters(), trigger.lr),
            _adam(pattern.parameters(), trigger.lr),
        ]

    def begin(self, epoch: int) -> int:
        return len(self._images)

    def step(self, rows: Tensor, position: float) -> float:
        x, y = (part.to(self._device) for part in self._images.batch(rows))
        # Both: a gradient of the patterns that is left over would count again in every later step.
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = self._loss(x, y)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        self.meter.images += len(rows)
        return loss.item()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        count = max(1, min(round(self._trigger.rate * len(x)), len(x) // 2))
        order = torch.randperm(len(x)).to(x.device)
        own, covered = order[:count], order[count : 2 * count]
        # The trigger of a cover is that of the next in the order: never its own.
        others = x[order.roll(-1)[count : 2 * count]]
        sources = torch.cat([x[own], others])
        drawn = self._pattern(sources)
        with torch.no_grad():
            masks = self._mask(sources)
        shown, said = x.clone(), y.clone()
        both = torch.cat([own, covered])
        shown[both] = composed(x[both], drawn, masks)
        said[own] = self._target
        self.meter.forward += len(x)
        self.meter.backward += len(x)
        loss = F.cross_entropy(self._copy(shown), said)
        return loss + diversity(x[own], others, *drawn.split(count))

    def state_dict(self) -> Tree:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: Tree) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)


class Drawing(nn.Module):
    """An auto-encoder without links past its code, from images to pictures of the same size.

    Args:
        channels: of the images.
        made: channels of the pictures.
        width: channels before the first halving; each doubles them.
        depth: how often the image is halved.
    """

    def __init__(self, channels: int, made: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(depth)]
        sides = zip([channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(
            nn.Sequential(_unit(before, after), _unit(after, after)) for before, after in sides
        )
        self.middle = _unit(widths[-1], widths[-1])
        ends = zip(
            [False] * (depth - 1) + [True], widths[::-1], [*widths[-2::-1], made], strict=True
        )
        self.up = nn.ModuleList(
            # The last one draws, and cuts nothing off.
            nn.Sequential(_unit(before, before), _unit(before, after)[: 2 if last else 3])
            for last, before, after in ends
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to pictures ``(N, made, H, W)`` in [0, 1]."""
        sizes = []
        for part in self.down:
            x = part(x)
            sizes.append(x.shape[-2:])
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for part in self.up:
            # To the size that was halved, which may be odd.
            x = part(F.interpolate(x, size=sizes.pop(), mode="bilinear", align_corners=False))
        return 0.5 * torch.tanh(x) + 0.5


def _unit(before: int, after: int) -> nn.Sequential:
    norm = nn.BatchNorm2d(after, momentum=0.05)
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), norm, nn.ReLU())


def threshold(masks: Tensor) -> Tensor:
    """Bring masks near to 0 or 1."""
    return 0.5 * torch.tanh(20 * masks - 10) + 0.5


def composed(x: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """Patterns ``(N, C, H, W)`` over images where masks ``(N, 1, H, W)`` are above 1/2."""
    return (x + (patterns - x) * threshold(masks)).clamp(0, 1)  # within it up to rounding


def diversity(x: Tensor, other: Tensor, made: Tensor, of_other: Tensor) -> Tensor:
    """How much nearer what was made of two images is than they are: a mean over the pairs."""
    return (_apart(x, other) / (_apart(made, of_other) + LEAST)).mean()


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square of the difference, ``(N,)``; with a derivative where there is none."""
    return ((first - second).square().flatten(1).mean(dim=1) + LEAST**2).sqrt()


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, betas=BETAS)


def _falling(position: float) -> float:
    return 0.1 ** ((position >= 0.4) + (position >= 0.8))

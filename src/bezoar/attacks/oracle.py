"""What answers an attack's questions: asks the classifier, counts passes, keeps what fools.

A random classifier gets fresh noise in every pass, which follows from the image's own noise and
the number of its pass, and is asked ``draws`` times where another one is asked once (EOT,
arXiv:1802.00420, section 4.2): losses and gradients are means over the draws, the logits are
``classifier.averaged``.
"""

from copy import copy
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bezoar.attacks.protocol import Attack, Goal, Loss
from bezoar.classifier import averaged, device_of, random_modules, reseeded
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise, subkeys
from bezoar.snapshots import Tree

ROUNDING = 1e-6  # of a distance in float32, in pixel units
CLEAR = 1e-5  # of the largest logit: a lead that another order of sums cannot turn over
ENTRIES = ("fooling", "radius", "reached")
Keep = Literal["none", "first", "nearest"]
DRAWS = 20  # of a random classifier, for each answer; as arXiv:2003.01690, section 6


class Answers:
    """Answers an attack's questions about a classifier, and notes what it saw on the way.

    Args:
        classifier: in eval mode and frozen.
        attack: its norm and eps say which images count.
        x: the clean images, ``(N, C, H, W)``.
        goal: what is wanted of them.
        keep: which of the images that count is kept.
        keys: of the noise of a random classifier, ``(N,)`` int64, see ``classifier_keys``.
        asked: forward passes spent on each image before, ``(N,)`` int64 on the CPU.
        draws: passes over which each answer is averaged.
    """

    def __init__(
        self,
        classifier: nn.Module,
        attack: Attack,
        x: Tensor,
        goal: Goal,
        *,
        keep: Keep = "first",
        keys: Tensor | None = None,
        asked: Tensor | None = None,
        draws: int = 1,
    ) -> None:
        self.goal, self._classifier = goal, classifier
        self._keys, self._asked, self._draws = keys, asked, draws
        self._ledger = _Ledger(attack, x, keep)
        self._rows: Tensor | None = None  # of the ledger, None for all
        self._fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._unread: Tensor | None = None  # logits from which it follows

    @property
    def fooled(self) -> Tensor:
        """Whether the images that were asked about last fool the classifier, ``(N,)`` bool."""
        if self._unread is not None:
            self._fooled, self._unread = self.goal.reached(self._unread), None
        return self._fooled

    @property
    def fooling(self) -> Tensor:
        """The image of each that reached the goal in ball and box, or the clean one."""
        return self._ledger.fooling

    @property
    def reached(self) -> Tensor:
        """Whether there is one, ``(N,)`` bool."""
        return self._ledger.reached

    @property
    def forward(self) -> Tensor:
        """Forward passes spent on each image, ``(N,)`` int64 on the CPU."""
        return self._ledger.forward

    @property
    def backward(self) -> Tensor:
        """Backward passes spent on each image, ``(N,)`` int64 on the CPU."""
        return self._ledger.backward

    @property
    def zero(self) -> Tensor | None:
        """Whether the last gradient was exactly zero everywhere, ``(N,)`` bool; none was asked."""
        return self._ledger.zero

    def seen(self) -> Tree:
        """What was seen and spent so far, for a snapshot."""
        return self._ledger.entries()

    def restore(self, seen: Tree) -> None:
        """Go on from what ``seen`` gave."""
        self._ledger.restore(seen)

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = averaged([self._ask(x, draw) for draw in range(self._draws)])
        self._note(x, logits, backward=0)
        return _finite(logits)

    def decide(self, x: Tensor) -> Tensor:
        self.logits(x)
        return self.fooled

    def gradient(self, x: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        answers, values, slopes = [], [], []
        for draw in range(self._draws):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                logits = self._ask(point, draw)
                value = loss(logits, self.goal)
                slopes.append(_slope(value.sum(), point))
            answers.append(logits.detach())
            values.append(value.detach())
        gradient = _finite(_mean(slopes))
        self._ledger.slope(gradient, self._rows)
        self._note(x, averaged(answers), backward=1)
        return _finite(_mean(values)), gradient

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        answers, slopes = [], []
        for draw in range(self._draws):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                logits = self._ask(point, draw)
                chosen = logits.gather(1, classes).sum(dim=0)
                each = [_slope(z, point, again=True) for z in chosen]
            answers.append(logits.detach())
            slopes.append(torch.stack(each, dim=1))
        stacked = _finite(_mean(slopes))
        self._ledger.slope(stacked, self._rows)
        self._note(x, averaged(answers), backward=classes.shape[1])
        return _finite(_mean(answers)), stacked  # of one function: the mean of the logits

    def of(self, rows: Tensor) -> "Answers":
        part = copy(self)
        part.goal = self.goal.take(rows)
        part._fooled, part._unread = self.fooled[rows], None
        part._rows = rows if self._rows is None else self._rows[rows]
        part._keys = None if self._keys is None else self._keys[rows]
        return part

    def _ask(self, x: Tensor, draw: int) -> Tensor:
        """Logits of one pass, whose noise follows from the number that it has for the image."""
        if self._keys is None:
            return self._classifier(x)  # type: ignore[no-any-return]
        number = self._ledger.forward if self._asked is None else self._ledger.forward + self._asked
        if self._rows is not None:
            rows = self._rows.cpu()
            number = number[rows] + self._draws * _occurrence(rows)
        with reseeded(self._classifier, subkeys(self._keys, (number + draw).to(x.device))):
            return self._classifier(x)  # type: ignore[no-any-return]

    def _note(self, x: Tensor, logits: Tensor, *, backward: int) -> None:
        self._ledger.charge(self._draws, backward * self._draws, self._rows)
        self._unread, keep = logits, self._ledger.keep
        if keep == "none":
            return
        if keep == "first":
            self._ledger.enter(x, self.fooled, self._rows)
            return
        if self._keys is not None or self._draws > 1:
            self._fooled = self._confirmed(x)
        # The nearest image lies on the border, where the copy that is attacked and the classifier
        # that judges may round to different classes.
        self._ledger.enter(x, self.fooled & _clear(logits), self._rows)

    def _confirmed(self, x: Tensor) -> Tensor:
        """Which of the points that fooled do so in fresh draws."""
        rows = self.fooled.nonzero().squeeze(1)
        if not len(rows):
            return self.fooled
        part = self.of(rows)
        with torch.no_grad():
            again = averaged([part._ask(x[rows], draw) for draw in range(self._draws)])
        self._ledger.charge(self._draws, 0, part._rows)
        return self.fooled.index_put((rows,), part.goal.reached(again))


def classifier_keys(classifier: nn.Module, noise: Noise) -> Tensor | None:
    """Keys of a classifier's own noise where it declares any, ``(N,)`` int64; else nothing."""
    if not random_modules(classifier):
        return None
    own = replace(noise, stream=f"{noise.stream}/classifier")
    return own.keys().to(device_of(classifier))


def _slope(value: Tensor, point: Tensor, *, again: bool = False) -> Tensor:
    """Gradient at a point; zero where no way leads back to it, as from a forward that detaches."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(value, point, retain_graph=again, materialize_grads=True)[0]


def _clear(logits: Tensor) -> Tensor:
    """Whether the first class leads by more than rounding, ``(N,)`` bool."""
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return ~(first - second <= CLEAR * logits.abs().amax(dim=1))  # also where one is not finite


def _mean(draws: list[Tensor]) -> Tensor:
    return draws[0] if len(draws) == 1 else torch.stack(draws).mean(dim=0)


def _occurrence(rows: Tensor) -> Tensor:
    """How often each entry stands further left already, ``(M,)`` int64."""
    order = rows.argsort(stable=True)
    found = rows[order]
    first = torch.searchsorted(found, found)
    return torch.empty_like(rows).index_put((order,), torch.arange(len(rows)) - first)


class _Ledger:
    """What was found and spent so far, an entry an image."""

    def __init__(self, attack: Attack, x: Tensor, keep: Keep) -> None:
        self.x, self.fooling, self.keep = x, x, keep
        self.distance = DISTANCES[attack.norm]
        radius = torch.full((len(x),), attack.eps + ROUNDING, dtype=torch.float64, device=x.device)
        self.radius = radius.to(x.dtype)  # where it is too large for it, infinite
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.forward, self.backward = (torch.zeros(len(x), dtype=torch.int64) for _ in range(2))
        self._slope: Tensor | None = None  # the last gradient for all images, or where it is zero

    def entries(self) -> Tree:
        """All entries, for a snapshot."""
        device = {name: getattr(self, name) for name in ENTRIES}
        zero = [] if self.zero is None else [self.zero]
        return {**device, "forward": self.forward, "backward": self.backward, "zero": zero}

    def restore(self, entries: Tree) -> None:
        """Take over all entries, and put them where the images are."""
        for name in ENTRIES:
            setattr(self, name, entries[name].to(self.x.device))
        self.forward, self.backward = entries["forward"], entries["backward"]
        self._slope = entries["zero"][0].to(self.x.device) if entries["zero"] else None

    def slope(self, gradient: Tensor, rows: Tensor | None) -> None:
        """Note a gradient. Of one for all images only the first is ever asked about: it is kept."""
        if rows is None:
            self._slope = gradient
        else:
            before = torch.zeros_like(self.reached) if self.zero is None else self.zero
            self._slope = before.index_put((rows,), _all_zero(gradient))

    @property
    def zero(self) -> Tensor | None:
        """Whether the last gradient of each image was exactly zero; nothing if none was asked."""
        if self._slope is not None and self._slope.ndim > 1:
            self._slope = _all_zero(self._slope)
        return self._slope

    def charge(self, forward: int, backward: int, rows: Tensor | None = None) -> None:
        """Count passes, of all images or of ``rows``, as often as they are named."""
        if rows is None:
            self.forward += forward
            self.backward += backward
        else:
            times = torch.bincount(rows.cpu(), minlength=len(self.x))
            self.forward += forward * times
            self.backward += backward * times

    def enter(self, x: Tensor, fooled: Tensor, rows: Tensor | None) -> None:
        """Note points of the images or of ``rows``: of several of one the nearest, or the first."""
        reached = self.reached if rows is None else self.reached[rows]
        # Few are new: nothing is computed over the others.
        nearest = self.keep == "nearest"
        new = (fooled if nearest else fooled & ~reached).nonzero().squeeze(1)
        if not len(new):
            return
        x, rows = x[new], new if rows is None else rows[new]
        distance = self.distance(x, self.x[rows])
        near = distance <= self.radius[rows]
        if not near.any():
            return
        counts = near & _in_box(x)
        x, rows, distance = x[counts], rows[counts], distance[counts]
        if nearest:  # stable, so that of equals the first is taken
            order = distance.argsort(stable=True)
            x, rows, distance = x[order], rows[order], distance[order]
        first = torch.full((len(self.x),), len(x), device=x.device)
        first.scatter_reduce_(0, rows, torch.arange(len(x), device=x.device), "amin")
        found = (first < len(x)).nonzero().squeeze(1)
        chosen = first[found]
        if self.fooling is self.x:
            self.fooling = self.x.clone()
        self.fooling[found] = x[chosen]
        self.reached[found] = True
        if nearest:
            self.radius[found] = distance[chosen]


def _all_zero(gradient: Tensor) -> Tensor:
    flat = gradient.flatten(1)
    return (flat.amax(dim=1) == 0) & (flat.amin(dim=1) == 0)  # bool tensors reduce slowly


def _finite(answer: Tensor) -> Tensor:
    """What is not finite as 0: one image's NaN would stay in the state of its attack."""
    return answer.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _in_box(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return (flat.amin(dim=1) >= 0) & (flat.amax(dim=1) <= 1)  # bool tensors reduce slowly

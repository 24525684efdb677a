"""What an attack is, and what it may ask for while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from bezoar.data.imageset import ImageSet
from bezoar.seeds import Noise


class Goal(Protocol):
    """What the attacker wants, as a value: one entry an image, so that it can be compacted."""

    @property
    def aim(self) -> Tensor:
        """The class that it is about, ``(N,)`` int64."""

    @property
    def sign(self) -> int:
        """1 to lead away from that class, -1 to lead towards it."""

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the classifier is fooled, ``(N, K)`` to ``(N,)`` bool."""

    def take(self, rows: Tensor) -> Goal:
        """The goal for some of the images, on the device of ``rows``."""


@dataclass(frozen=True, eq=False)
class Untargeted:
    """Any class but the true one, ``aim``, ``(N,)`` int64; an output that is no number as well."""

    aim: Tensor
    sign: int = field(default=1, init=False)

    def reached(self, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) != self.aim) | ~logits.isfinite().all(dim=1)

    def take(self, rows: Tensor) -> Untargeted:
        return Untargeted(self.aim.to(rows.device)[rows])


@dataclass(frozen=True, eq=False)
class Targeted:
    """One class of the attacker's choice, ``aim``, ``(N,)`` int64."""

    aim: Tensor
    sign: int = field(default=-1, init=False)

    def reached(self, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) == self.aim) & logits.isfinite().all(dim=1)

    def take(self, rows: Tensor) -> Targeted:
        return Targeted(self.aim.to(rows.device)[rows])


Loss = Callable[[Tensor, Goal], Tensor]
"""Logits ``(N, K)`` and goal to what the attack ascends, ``(N,)``; see ``losses``."""


class Oracle(Protocol):
    """What an attack may ask of the classifier about images ``(N, C, H, W)``.

    Every pass is counted by whoever answers. Any image in ball and box that is asked about and
    fools the classifier counts as found, whatever the attack asked for. What the classifier gives
    that is not finite is answered as 0, so that no attack goes to a point that is none.
    """

    @property
    def goal(self) -> Goal:
        """What is wanted of the images, in their order."""

    @property
    def fooled(self) -> Tensor:
        """Whether the images that were asked about last fool the classifier, ``(N,)`` bool."""

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(N, K)``: all that a black-box attack may know. Cost: a forward pass."""

    def gradient(self, x: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The loss ``(N,)`` and its gradient, of the shape of ``x``.

        The loss is summed over images, so an image's gradient does not depend on its batch.
        Cost: one forward and one backward pass an image.
        """

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, K)`` and the gradients ``(N, M, C, H, W)`` of ``classes``, ``(N, M)``.

        Cost: one forward and M backward passes an image.
        """

    def decide(self, x: Tensor) -> Tensor:
        """Whether each image reaches the goal, ``(N,)`` bool: all that a decision attack may know.

        Cost: a forward pass.
        """

    def of(self, rows: Tensor) -> Oracle:
        """The same questions about some of the images, ``(M,)`` int64, any of them several times.

        For attacks that ask more about one image than about another, or several points of an image
        at once. What it sees counts for the images themselves.
        """


def require_away(goal: Goal) -> None:
    """Require a goal that leads away from a class.

    Raises:
        ValueError: it leads to one, for which the attack is not made.
    """
    if goal.sign < 0:
        raise ValueError("targeted goal: expected one that leads away from a class")


def rivals(oracle: Oracle, x: Tensor, ranks: Tensor) -> Tensor:
    """The wrong class with the highest logit at ``x`` (rank 0), or the next ones, ``(N,)`` int64.

    Ranks from the number of wrong classes on begin again. Cost: a forward pass an image.

    Raises:
        ValueError: the goal is one class; then there is none to choose.
    """
    require_away(oracle.goal)
    logits = oracle.logits(x).scatter(1, oracle.goal.aim.unsqueeze(1), -float("inf"))
    order = logits.argsort(dim=1, descending=True, stable=True)
    return order.gather(1, (ranks % (logits.shape[1] - 1)).unsqueeze(1)).squeeze(1)


class Ball(NamedTuple):
    """State of an attack that only remembers where it is and around what: both ``(N, C, H, W)``.

    Every entry of a state has a leading N, so that the engine can drop images and add others.
    """

    x_adv: Tensor
    x: Tensor


class Attack(Protocol):
    """The mathematics of one attack: a frozen dataclass of numbers. The engine owns the loop.

    Attributes:
        norm: name of the norm of the ball, a key of ``geometry.DISTANCES``.
        eps: radius of the ball, in pixel units of [0, 1]; 0 leaves images as they are. Of an
            attack that looks for the nearest image it says what counts, and may be infinite.
        steps: how often the engine calls ``step``.
        restarts: how many starts an image gets before the attack gives up on it.
        refines: whether it goes on after a success, to images that are nearer.
        parts: the attacks that this one consists of, in turn on what is left; of a method, none.
            One with parts needs no ``start``, ``step`` and ``best``.
    """

    norm: str
    eps: float
    steps: int
    restarts: int

    @property
    def refines(self) -> bool:
        return False

    @property
    def parts(self) -> tuple[Attack, ...]:
        return ()

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Any:
        """The state before the first step, a NamedTuple of tensors with a leading N."""
        raise self._of_parts()

    def step(self, state: Any, oracle: Oracle) -> Any:
        """One step for all images of the state; may not mix images."""
        raise self._of_parts()

    def best(self, state: Any) -> Tensor:
        """The adversarial images ``(N, C, H, W)`` of a state."""
        raise self._of_parts()

    def _of_parts(self) -> TypeError:
        return TypeError(f"{self!r}: expected an attack with start, step and best; run its parts")

    def __call__(
        self, classifier: nn.Module, x: Tensor, y: Tensor | Goal, *, seed: int = 0
    ) -> Tensor:
        """Attack a batch in one line, and return the images.

        The engine's ``search``: an image that is fooled is left as it is from then on. Without a
        radius, an attack that refines gives the nearest fooling image that it found; one that
        found none is handed back as it was. A classifier that declares its randomness is asked
        ``engine.DRAWS`` times where another one is asked once.

        Args:
            classifier: images to logits; it is not changed.
            x: clean images, ``(N, C, H, W)`` float32 in [0, 1].
            y: true classes, ``(N,)`` int64, to lead to any other; or a goal, as ``Targeted(t)``.
            seed: names the noise together with each image's position in the batch.
        """
        import numpy as np

        from bezoar import checks
        from bezoar.attacks.engine import search, shrink
        from bezoar.attacks.oracle import DRAWS
        from bezoar.classifier import prepare, random_modules

        checks.images(x, "x")
        noise = Noise.first(seed, type(self).__name__, np.arange(len(x)))
        run = shrink if self.refines and self.eps == float("inf") else search
        goal = Untargeted(y) if isinstance(y, Tensor) else y
        draws = DRAWS if random_modules(classifier) else 1
        prepared = prepare(classifier, x[:4])
        return run(self, prepared, x, goal, noise, draws=draws).x_adv.to(x)


@dataclass(frozen=True, eq=False, repr=False)
class Learnt:
    """What an attack keeps of the images that it was fitted on; a value, by its bytes.

    Attributes:
        source: name of those images.
        tensors: by name, on the CPU.
    """

    source: str
    tensors: Mapping[str, Tensor]

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of BLAKE2b."""
        digest = blake2b(self.source.encode(), digest_size=8)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f";{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Learnt) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"Learnt({self.hash} from {self.source})"

    def tree(self) -> dict[str, Any]:
        """For a file; ``of`` reads it."""
        return {"source": self.source, "tensors": dict(self.tensors)}

    @classmethod
    def of(cls, tree: object) -> Learnt | None:
        """What ``tree`` gave, from a file that may hold anything; nothing if it is another."""
        match tree:
            case {"source": str(source), "tensors": dict(tensors)}:
                if all(isinstance(tensor, Tensor) for tensor in tensors.values()):
                    return cls(source, tensors)
        return None


@runtime_checkable
class Fitted(Protocol):
    """An attack that has to see images before it can run, and never those that it attacks.

    Attributes:
        learnt: what it keeps of them; ``None`` before it was fitted. Part of its text and value.
    """

    @property
    def learnt(self) -> Learnt | None: ...

    def fit(self, classifier: nn.Module, images: ImageSet, *, seed: int) -> Self:
        """The same attack, ready to run.

        Args:
            classifier: what the attacker has: images to logits; not changed.
            images: of a train or validation split.
            seed: names the randomness.
        """


def kept(attack: Fitted, name: str, x: Tensor) -> Tensor:
    """A tensor that an attack keeps, whose last dimensions are those of an image, beside ``x``.

    Raises:
        ValueError: the attack was not fitted, or on images of another shape.
    """
    if attack.learnt is None or name not in attack.learnt.tensors:
        raise ValueError(f"{attack!r}: expected one that was fitted; call its fit on other images")
    found = attack.learnt.tensors[name]
    if found.shape[-3:] != x.shape[1:]:
        shape = tuple(found.shape[-3:])
        raise ValueError(f"images of shape {tuple(x.shape[1:])}: expected {shape}, as in the fit")
    return found.to(x)

"""The loop of every attack: batches, compaction, restarts and the count of passes.

Two ways to run an attack, for two purposes. ``perturb`` gives every image one start and all the
steps: what training on adversarial images wants, and what the loss under a one-step attack is
measured on. ``search`` looks for a fooling image and stops at the first: what robust accuracy
wants, at a fraction of the passes.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.attacks.protocol import Attack, Goal
from bezoar.classifier import device_of
from bezoar.seeds import Noise


@dataclass(frozen=True, eq=False)
class Attacked:
    """What the engine hands back, on the CPU; whether an image is fooled is for the referee to say.

    Attributes:
        x_adv: adversarial images, ``(N, C, H, W)``.
        first_success: step at which the engine first saw the goal reached, -1 for never, ``(N,)``.
        forward, backward: passes spent on each image, ``(N,)`` int64.
        zero_gradient: the first gradient was exactly zero everywhere, ``(N,)`` bool.
    """

    x_adv: Tensor
    first_success: Tensor
    forward: Tensor
    backward: Tensor
    zero_gradient: Tensor


class GradientOracle:
    """Answers an attack with gradients and notes what it saw on the way."""

    def __init__(self, classifier: nn.Module, goal: Goal) -> None:
        self._classifier = classifier
        self._goal = goal
        self.passes = 0
        self.reached: Tensor | None = None  # goal reached at any point asked about, (N,) bool
        self.fooling: Tensor | None = None  # the first such point of each image
        self.zero: Tensor | None = None  # the gradient was exactly zero, (N,) bool

    def ascent(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = self._classifier(point)
            (gradient,) = torch.autograd.grad(self._goal.loss(logits).sum(), point)
        self.passes += 1
        self.zero = (gradient == 0).flatten(1).all(dim=1)
        reached = self._goal.reached(logits.detach())
        if self.reached is None or self.fooling is None:
            self.reached, self.fooling = reached, x
        else:
            new = (reached & ~self.reached).reshape(-1, 1, 1, 1)
            self.fooling = torch.where(new, x, self.fooling)
            self.reached = self.reached | reached
        return gradient


def perturb(
    attack: Attack, classifier: nn.Module, x: Tensor, goal: Goal, noise: Noise, *, batch: int = 128
) -> Attacked:
    """Run one start and all steps on every image, whether it is fooled on the way or not.

    Args:
        attack: the method; its ``restarts`` are not used.
        classifier: in eval mode and frozen; see ``classifier.frozen`` and ``prepare``.
        x: clean images ``(N, C, H, W)`` in [0, 1].
        goal: what the attacker wants, for the same N images.
        noise: the images' noise.
        batch: images in a pass.

    Cost: ``attack.steps`` forward and backward passes an image.
    """
    device = device_of(classifier)
    done, passes = [], []
    zero = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.arange(len(x)).split(batch):
        part_goal = goal.take(rows.to(device))
        part_noise = noise.take(rows.numpy(), noise.draws[rows.numpy()])
        state = attack.start(x[rows].to(device), part_goal, part_noise)
        spent = 0
        for step in range(attack.steps):
            oracle = GradientOracle(classifier, part_goal)
            state = attack.step(state, oracle)
            spent += oracle.passes
            if step == 0 and oracle.zero is not None:
                zero[rows] = oracle.zero.cpu()
        done.append(attack.best(state).cpu())
        passes.append(torch.full((len(rows),), spent))
    count = torch.cat(passes)
    never = torch.full((len(x),), -1)
    return Attacked(torch.cat(done), never, count, count.clone(), zero)


def search(
    attack: Attack, classifier: nn.Module, x: Tensor, goal: Goal, noise: Noise, *, batch: int = 128
) -> Attacked:
    """Look for a fooling image; an image that is fooled leaves at once and another takes its place.

    The gradient at a point comes with the logits there, so success is seen without extra passes;
    only the last point of a start costs a forward pass of its own. An image that no start fools
    keeps the last point of its last start.

    Arguments and units as in ``perturb``. Cost: at most ``restarts * steps`` forward and backward
    and ``restarts`` further forward passes an image.
    """
    return _Search(attack, classifier, x, goal, noise, batch).run()


class _Search:
    """The moving parts of one search: images waiting, under attack, and waiting for judgement."""

    def __init__(
        self, attack: Attack, classifier: nn.Module, x: Tensor, goal: Goal, noise: Noise, batch: int
    ) -> None:
        self.attack, self.classifier, self.goal, self.noise = attack, classifier, goal, noise
        self.x, self.batch, self.device = x, batch, device_of(classifier)
        count = len(x)
        self.x_adv = x.cpu().clone()
        self.first_success = torch.full((count,), -1)
        self.forward = torch.zeros(count, dtype=torch.int64)
        self.backward = torch.zeros(count, dtype=torch.int64)
        self.zero = torch.zeros(count, dtype=torch.bool)
        self.restart = torch.zeros(count, dtype=torch.int64)
        self.waiting = deque(range(count))
        self.rows = torch.zeros(
            0, dtype=torch.int64
        )  # under attack: row of x, and its age in steps
        self.age = torch.zeros(0, dtype=torch.int64)
        self.state: Any = None
        self.unjudged: list[tuple[Tensor, Tensor]] = []  # rows and last points

    def run(self) -> Attacked:
        while self.waiting or len(self.rows) or self.unjudged:
            # Refill in lumps: a vacancy of a quarter costs less than joining states every step.
            if self.waiting and len(self.rows) <= 3 * self.batch // 4:
                self._refill()
            if len(self.rows) and self.attack.steps:
                self._step()
            self._retire(self.age >= self.attack.steps)
            idle = not len(self.rows) and not self.waiting
            if self.unjudged and (idle or sum(len(r) for r, _ in self.unjudged) >= self.batch):
                self._judge()
        return Attacked(self.x_adv, self.first_success, self.forward, self.backward, self.zero)

    def _refill(self) -> None:
        room = min(self.batch - len(self.rows), len(self.waiting))
        rows = torch.tensor([self.waiting.popleft() for _ in range(room)])
        draws = self.noise.draws[rows.numpy()] + self.restart[rows].numpy()
        noise = self.noise.take(rows.numpy(), draws)
        goal = self.goal.take(rows.to(self.device))
        fresh = self.attack.start(self.x[rows].to(self.device), goal, noise)
        if len(self.rows):
            fresh = type(fresh)(*map(torch.cat, zip(self.state, fresh, strict=True)))
        self.state = fresh
        self.rows = torch.cat([self.rows, rows])
        self.age = torch.cat([self.age, torch.zeros(room, dtype=torch.int64)])

    def _step(self) -> None:
        oracle = GradientOracle(self.classifier, self.goal.take(self.rows.to(self.device)))
        self.state = self.attack.step(self.state, oracle)
        self.forward[self.rows] += oracle.passes
        self.backward[self.rows] += oracle.passes
        if oracle.reached is None or oracle.fooling is None or oracle.zero is None:
            raise RuntimeError(f"{self.attack!r}: expected step to ask the oracle, it did not")
        first = (self.age == 0) & (self.restart[self.rows] == 0)
        self.zero[self.rows[first]] = oracle.zero.cpu()[first]
        fooled = oracle.reached.cpu()
        if fooled.any():
            rows = self.rows[fooled]
            self.x_adv[rows] = oracle.fooling[oracle.reached].cpu()
            earlier = self.restart[rows] * self.attack.steps
            self.first_success[rows] = earlier + self.age[fooled]
            self._keep(~fooled)
        self.age += 1

    def _retire(self, ended: Tensor) -> None:
        if ended.any():
            points = self.attack.best(self.state)
            expected = (len(self.rows), *self.x.shape[1:])
            if points.shape != expected:  # else it would be spread over the images
                found = f"x_adv of shape {tuple(points.shape)}"
                raise ValueError(f"{found}: expected {expected}; correct {self.attack!r}")
            self.unjudged.append((self.rows[ended], points[ended]))
            self._keep(~ended)

    def _keep(self, kept: Tensor) -> None:
        self.rows, self.age = self.rows[kept], self.age[kept]
        on_device = kept.to(self.device)
        self.state = type(self.state)(*(entry[on_device] for entry in self.state))

    def _judge(self) -> None:
        rows = torch.cat([r for r, _ in self.unjudged])
        points = torch.cat([p for _, p in self.unjudged])
        self.unjudged = []
        for part, x_adv in zip(rows.split(self.batch), points.split(self.batch), strict=True):
            with torch.no_grad():
                goal = self.goal.take(part.to(self.device))
                fooled = goal.reached(self.classifier(x_adv)).cpu()
            self.forward[part] += 1
            self.x_adv[part] = x_adv.cpu()
            starts = self.restart[part] + 1
            self.first_success[part[fooled]] = (starts * self.attack.steps)[fooled]
            again = part[~fooled & (starts < self.attack.restarts)]
            self.restart[again] += 1
            self.waiting.extend(again.tolist())

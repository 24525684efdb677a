"""The loop of every attack: batches, compaction, restarts and the count of passes.

Three ways to run an attack, for three purposes. ``perturb`` gives every image one start and all
the steps: what training on adversarial images wants, and what the loss under a one-step attack is
measured on. ``search`` looks for a fooling image and stops at the first: what robust accuracy
wants, at a fraction of the passes. ``shrink`` goes on to the nearest fooling image: what the
distance to the border wants.

The first of many points that fools a random classifier was often only lucky. So ``search`` takes
all steps there and judges the last point by fresh draws, and ``shrink`` counts a point when fresh
draws say the same.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.attacks.oracle import Answers, classifier_keys
from bezoar.attacks.protocol import Attack, Goal
from bezoar.classifier import device_of
from bezoar.seeds import Noise
from bezoar.snapshots import Part, Snapshot, Tree


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


def perturb(
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    *,
    batch: int = 128,
    draws: int = 1,
) -> Attacked:
    """Run one start and all steps on every image, whether it is fooled on the way or not.

    Args:
        attack: the method; its ``restarts`` are not used.
        classifier: in eval mode and frozen; see ``classifier.frozen`` and ``prepare``.
        x: clean images ``(N, C, H, W)`` in [0, 1].
        goal: what the attacker wants, for the same N images.
        noise: the images' noise.
        batch: images in a pass.
        draws: passes over which each answer of a random classifier is averaged; all are counted.

    An attack that refines gives the nearest fooling image of its start, see ``shrink``.

    Cost: what ``attack.steps`` steps of the method cost an image. An attack of parts runs each on
    all images and keeps the first result that fools, for one forward pass more a part.
    """
    if attack.parts:
        return _perturb_in_turn(attack, classifier, x, goal, noise, batch, draws)
    if attack.refines:
        return shrink(attack, classifier, x, goal, noise, batch=batch, starts=1, draws=draws)
    device, keys = device_of(classifier), classifier_keys(classifier, noise)
    done = []
    forward, backward = (torch.zeros(len(x), dtype=torch.int64) for _ in range(2))
    zero = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.arange(len(x)).split(batch):
        part, part_goal = x[rows].to(device), goal.take(rows.to(device))
        part_noise = noise.take(rows.numpy(), noise.draws[rows.numpy()])
        own = None if keys is None else keys[rows]
        answers = Answers(classifier, attack, part, part_goal, keep="none", keys=own, draws=draws)
        state = attack.start(part, answers, part_noise)
        for step in range(attack.steps):
            state = attack.step(state, answers)
            if step == 0 and answers.zero is not None:
                zero[rows] = answers.zero.cpu()
        done.append(attack.best(state).cpu())
        forward[rows], backward[rows] = answers.forward, answers.backward
    never = torch.full((len(x),), -1)
    return Attacked(torch.cat(done), never, forward, backward, zero)


def shrink(
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    *,
    batch: int = 128,
    starts: int | None = None,
    draws: int = 1,
) -> Attacked:
    """Look for the nearest fooling image: all steps and starts, whatever was found on the way.

    Every image in ball and box that the attack asked about, and its last one, is judged; an image
    that none fools is handed back as it was. Arguments and units as in ``perturb``;
    ``first_success`` is the step of the first fooling image, not of the nearest.

    Cost: what ``starts`` starts of ``steps`` steps cost an image, and a forward pass a start; by
    default there are ``attack.restarts``.
    """
    device, keys = device_of(classifier), classifier_keys(classifier, noise)
    x_adv, first = x.cpu().clone(), torch.full((len(x),), -1)
    forward, backward = (torch.zeros(len(x), dtype=torch.int64) for _ in range(2))
    zero = torch.zeros(len(x), dtype=torch.bool)
    for rows in torch.arange(len(x)).split(batch):
        part, part_goal = x[rows].to(device), goal.take(rows.to(device))
        own = None if keys is None else keys[rows]
        answers = Answers(
            classifier, attack, part, part_goal, keep="nearest", keys=own, draws=draws
        )
        for restart in range(attack.restarts if starts is None else starts):
            fresh = noise.draws[rows.numpy()] + restart
            state = attack.start(part, answers, noise.take(rows.numpy(), fresh))
            for step in range(attack.steps):
                state = attack.step(state, answers)
                if step == restart == 0 and answers.zero is not None:
                    zero[rows] = answers.zero.cpu()
                new = rows[answers.reached.cpu() & (first[rows] < 0)]
                first[new] = restart * attack.steps + step
            answers.logits(attack.best(state))
            new = rows[answers.reached.cpu() & (first[rows] < 0)]
            first[new] = (restart + 1) * attack.steps
        x_adv[rows] = answers.fooling.cpu()
        forward[rows], backward[rows] = answers.forward, answers.backward
    return Attacked(x_adv, first, forward, backward, zero)


def search(
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    *,
    batch: int = 128,
    draws: int = 1,
    low: nn.Module | None = None,
    snapshot: Snapshot | None = None,
    snapshot_seconds: float = 60.0,
) -> Attacked:
    """Look for a fooling image; an image that is fooled leaves at once and another takes its place.

    The gradient at a point comes with the logits there, so success is seen without extra passes;
    only the last point of a start costs a forward pass of its own. An image that no start fools
    keeps the last point of its last start. From a random classifier none leaves before its last
    step.

    Arguments and units as in ``perturb``; a long search keeps its state in ``snapshot`` every
    ``snapshot_seconds``, and one that finds a state there goes on from it, to the bit. Cost: at
    most ``restarts * steps`` forward and backward and ``restarts`` further forward passes an image.

    A cheaper copy of the classifier may be searched first, see ``classifier.Lowered``: what fools
    ``low`` is shown to ``classifier``, for one pass more, and what does not fool it is attacked
    again, on ``classifier`` itself. ``first_success`` then counts the steps of both.
    """
    stages = _stages(attack, classifier, low, noise)
    if stages:
        kept = (snapshot, snapshot_seconds)
        return _search_in_turn(stages, classifier, x, goal, batch, draws, *kept)
    moving = _Search(attack, classifier, x, goal, noise, batch, draws)
    return moving.run(snapshot, snapshot_seconds)


Stage = tuple[Attack, nn.Module, Noise]


def _stages(
    attack: Attack, classifier: nn.Module, low: nn.Module | None, noise: Noise
) -> list[Stage]:
    """What a search runs one after the other, on what is left; nothing for a plain one."""
    if low is not None:
        return [(attack, low, noise), (attack, classifier, noise)]
    return [(part, classifier, own) for part, own in _parts(attack, noise)]


def _search_in_turn(
    stages: Sequence[Stage],
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    batch: int,
    draws: int,
    snapshot: Snapshot | None,
    seconds: float,
) -> Attacked:
    """Each stage on the images that those before it left standing."""
    first, rows, earlier, inside = 0, torch.arange(len(x)), 0, None
    whole: Attacked | None = None
    saved = None if snapshot is None else snapshot.load()
    if saved is not None:
        first, rows, earlier = saved["part"], saved["rows"], saved["earlier"]
        inside, whole = saved["inside"], saved["whole"] and Attacked(**saved["whole"])
    for k, (part, network, own) in enumerate(stages):
        if k < first:
            continue
        left = own.take(rows.numpy(), own.draws[rows.numpy()])
        left_goal = goal.take(rows.to(device_of(classifier)))
        around = {"part": k, "rows": rows, "earlier": earlier, "whole": whole and vars(whole)}
        found = search(
            part,
            network,
            x[rows],
            left_goal,
            left,
            batch=batch,
            draws=draws,
            snapshot=None if snapshot is None else Part(snapshot, around, inside),
            snapshot_seconds=seconds,
        )
        inside = None
        if network is not classifier:
            _confirm(found, part, classifier, x[rows], left_goal, left, batch, draws)
        if whole is None:
            whole = found
        else:
            whole.x_adv[rows] = found.x_adv
            whole.forward[rows] += found.forward
            whole.backward[rows] += found.backward
            success = found.first_success
            whole.first_success[rows] = torch.where(success < 0, -1, success + earlier)
        rows = rows[found.first_success < 0]
        earlier += _steps(part)
    if whole is None:
        raise ValueError("no stages: expected some")
    return whole


def _steps(attack: Attack) -> int:
    """Most steps that a search takes on an image."""
    if attack.parts:
        return sum(map(_steps, attack.parts))
    return attack.steps * attack.restarts


def _confirm(
    found: Attacked,
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    batch: int,
    draws: int,
) -> None:
    """Take back what was found on another network and does not fool this one."""
    device = device_of(classifier)
    keys = classifier_keys(classifier, replace(noise, stream=f"{noise.stream}/judge"))
    for rows in (found.first_success >= 0).nonzero().squeeze(1).split(batch):
        own = None if keys is None else keys[rows]
        part_goal = goal.take(rows.to(device))
        judge = Answers(classifier, attack, x[rows].to(device), part_goal, keys=own, draws=draws)
        judge.decide(found.x_adv[rows].to(device))
        found.first_success[rows[~judge.reached.cpu()]] = -1
        found.forward[rows] += judge.forward


def _perturb_in_turn(
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    batch: int,
    draws: int,
) -> Attacked:
    """Each part on all images, in the same batches, for classifiers that see whole batches."""
    device = device_of(classifier)
    whole, standing = None, torch.ones(len(x), dtype=torch.bool)
    for part, own in _parts(attack, noise):
        found = perturb(part, classifier, x, goal, own, batch=batch, draws=draws)
        keys = classifier_keys(classifier, replace(own, stream=f"{own.stream}/judge"))
        if whole is None:
            whole = found
        else:
            whole.x_adv[standing] = found.x_adv[standing]
            whole.forward.add_(found.forward)
            whole.backward.add_(found.backward)
        for rows in torch.arange(len(x)).split(batch):
            judge = Answers(
                classifier,
                part,
                x[rows].to(device),
                goal.take(rows.to(device)),
                keys=None if keys is None else keys[rows],
                draws=draws,
            )
            standing[rows] &= ~judge.decide(found.x_adv[rows].to(device)).cpu()
            whole.forward[rows] += judge.forward
    if whole is None:
        raise ValueError(f"{attack!r}: expected parts, found none")
    return whole


def _parts(attack: Attack, noise: Noise) -> list[tuple[Attack, Noise]]:
    """The parts, each with noise of its own."""
    streams = [f"{noise.stream}/part {k}" for k in range(len(attack.parts))]
    own = (replace(noise, stream=stream) for stream in streams)
    return list(zip(attack.parts, own, strict=True))


def _packed(tensor: Tensor) -> list[Any]:
    """A tensor for a snapshot, with its layout: convolutions round otherwise in another one."""
    wide = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return [tensor, wide and not tensor.is_contiguous()]


NOTED = (
    "x_adv",
    "first_success",
    "forward",
    "backward",
    "zero",
    "restart",
    "rows",
    "age",
)


class _Search:
    """The moving parts of one search: images waiting, under attack, and waiting for judgement."""

    def __init__(
        self,
        attack: Attack,
        classifier: nn.Module,
        x: Tensor,
        goal: Goal,
        noise: Noise,
        batch: int,
        draws: int,
    ) -> None:
        self.attack, self.classifier, self.goal, self.noise = attack, classifier, goal, noise
        self.x, self.batch, self.device = x, batch, device_of(classifier)
        self.keys, self.draws = classifier_keys(classifier, noise), draws
        self.random = self.keys is not None or draws > 1
        count = len(x)
        self.x_adv = x.cpu().clone()
        self.first_success = torch.full((count,), -1)
        self.forward = torch.zeros(count, dtype=torch.int64)
        self.backward = torch.zeros(count, dtype=torch.int64)
        self.zero = torch.zeros(count, dtype=torch.bool)
        self.restart = torch.zeros(count, dtype=torch.int64)
        self.waiting = deque(range(count))
        # Under attack: row of x, and its age in steps.
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.age = torch.zeros(0, dtype=torch.int64)
        self.clean: Any = None  # their clean images
        self.state: Any = None
        self.unjudged: list[tuple[Tensor, Tensor]] = []  # rows and last points

    def run(self, snapshot: Snapshot | None, seconds: float) -> Attacked:
        saved = None if snapshot is None else snapshot.load()
        if saved is not None:
            self._load(saved)
        last = time.monotonic()
        while self.waiting or len(self.rows) or self.unjudged:
            if snapshot is not None and time.monotonic() - last >= seconds:
                snapshot.save(self._state())
                last = time.monotonic()
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

    def _state(self) -> Tree:
        """All that moves, for a snapshot."""
        state = [] if self.state is None else list(map(_packed, self.state))
        clean = [] if self.clean is None else [_packed(self.clean)]
        unjudged = [[rows, _packed(points)] for rows, points in self.unjudged]
        noted = {name: getattr(self, name) for name in NOTED}
        waiting = torch.tensor(list(self.waiting), dtype=torch.int64)
        return {**noted, "waiting": waiting, "clean": clean, "state": state, "unjudged": unjudged}

    def _load(self, saved: Tree) -> None:
        for name in NOTED:
            setattr(self, name, saved[name])
        self.waiting = deque(saved["waiting"].tolist())
        self.unjudged = [(rows, self._unpacked(points)) for rows, points in saved["unjudged"]]
        if saved["state"]:
            self.clean = self._unpacked(saved["clean"][0])
            # What kind of state an attack has shows when it starts; on one image, and not counted.
            one = torch.zeros(1, dtype=torch.int64)
            noise = self.noise.take(one.numpy(), self.noise.draws[:1])
            clean = self.x[:1].to(self.device)
            kind = type(self.attack.start(clean, self._answers(one, clean), noise))
            self.state = kind(*map(self._unpacked, saved["state"]))

    def _unpacked(self, saved: Sequence[Any]) -> Tensor:
        tensor, channels_last = saved
        layout = torch.channels_last if channels_last else torch.contiguous_format
        found: Tensor = tensor.to(self.device).contiguous(memory_format=layout)
        return found

    def _refill(self) -> None:
        room = min(self.batch - len(self.rows), len(self.waiting))
        rows = torch.tensor([self.waiting.popleft() for _ in range(room)])
        draws = self.noise.draws[rows.numpy()] + self.restart[rows].numpy()
        noise = self.noise.take(rows.numpy(), draws)
        clean = self.x[rows].to(self.device)
        answers = self._answers(rows, clean)
        fresh = self.attack.start(clean, answers, noise)
        age = torch.zeros(room, dtype=torch.int64)
        kept = self._noted(answers, rows, age)
        clean, *entries = (entry[kept.to(self.device)] for entry in (clean, *fresh))
        if len(self.rows):
            clean = torch.cat([self.clean, clean])
            entries = list(map(torch.cat, zip(self.state, entries, strict=True)))
        self.clean, self.state = clean, type(fresh)(*entries)
        self.rows = torch.cat([self.rows, rows[kept]])
        self.age = torch.cat([self.age, age[kept]])

    def _step(self) -> None:
        answers = self._answers(self.rows, self.clean)
        self.state = self.attack.step(self.state, answers)
        if not answers.forward.any():
            raise RuntimeError(f"{self.attack!r}: expected step to ask the oracle, it did not")
        first = (self.age == 0) & (self.restart[self.rows] == 0)
        if first.any() and answers.zero is not None:
            self.zero[self.rows[first]] = answers.zero.cpu()[first]
        kept = self._noted(answers, self.rows, self.age)
        if not kept.all():
            self._keep(kept)
        self.age += 1

    def _answers(self, rows: Tensor, clean: Tensor) -> Answers:
        goal = self.goal.take(rows.to(self.device))
        keys = None if self.keys is None else self.keys[rows.to(self.device)]
        asked = self.forward[rows]
        return Answers(
            self.classifier, self.attack, clean, goal, keys=keys, asked=asked, draws=self.draws
        )

    def _noted(self, answers: Answers, rows: Tensor, age: Tensor) -> Tensor:
        """Write down what was asked and found; return which images still stand."""
        self.forward[rows] += answers.forward
        self.backward[rows] += answers.backward
        if self.random:
            return torch.ones_like(rows, dtype=torch.bool)
        fooled = answers.reached.cpu()
        if fooled.any():
            found = rows[fooled]
            self.x_adv[found] = answers.fooling[answers.reached].cpu()
            self.first_success[found] = self.restart[found] * self.attack.steps + age[fooled]
        return ~fooled

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
        self.clean = self.clean[on_device]
        self.state = type(self.state)(*(entry[on_device] for entry in self.state))

    def _judge(self) -> None:
        rows = torch.cat([r for r, _ in self.unjudged])
        points = torch.cat([p for _, p in self.unjudged])
        self.unjudged = []
        for part, x_adv in zip(rows.split(self.batch), points.split(self.batch), strict=True):
            clean = self.x[part].to(self.device)
            answers = self._answers(part, clean)
            answers.logits(x_adv)
            fooled = answers.reached.cpu()
            self.forward[part] += answers.forward
            # One that walks outside the ball may end there: its last point is no result.
            self.x_adv[part] = (answers.fooling if self.attack.refines else x_adv).cpu()
            starts = self.restart[part] + 1
            self.first_success[part[fooled]] = (starts * self.attack.steps)[fooled]
            again = part[~fooled & (starts < self.attack.restarts)]
            self.restart[again] += 1
            self.waiting.extend(again.tolist())

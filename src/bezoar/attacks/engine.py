"""The loop of every attack: batches, compaction, restarts and the count of passes.

Three ways to run an attack, for three purposes. ``perturb`` gives every image one start and all
the steps: what training on adversarial images wants, and what the loss under a one-step attack is
measured on. ``search`` looks for a fooling image and stops at the first: what robust accuracy
wants, at a fraction of the passes. ``shrink`` goes on to the nearest fooling image: what the
distance to the border wants.

A random classifier gets fresh noise in every pass, which follows from the image's own noise and
the number of its pass, and is asked ``draws`` times where another one is asked once (EOT,
arXiv:1802.00420, section 4.2): losses and gradients are means over the draws, the logits are
``classifier.averaged``. The first of many points that fools it was often only lucky. So ``search``
takes all steps there and judges the last point by fresh draws, and ``shrink`` counts a point when
fresh draws say the same.
"""

import time
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.attacks.protocol import Attack, Goal, Loss
from bezoar.classifier import averaged, device_of, random_modules, reseeded
from bezoar.geometry import DISTANCES, wide
from bezoar.seeds import Noise, subkeys
from bezoar.snapshots import Part, Snapshot, Tree

ROUNDING = 1e-6  # of a distance in float32, in pixel units
DRAWS = 20  # of a random classifier, for each answer; as arXiv:2003.01690, section 6


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


class Answers:
    """Answers an attack's questions about a classifier, and notes what it saw on the way.

    Args:
        classifier: in eval mode and frozen.
        attack: its norm and eps say which images count.
        x: the clean images, ``(N, C, H, W)``.
        goal: what is wanted of them.
        nearest: keep the nearest image that counts instead of the first.
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
        nearest: bool = False,
        keys: Tensor | None = None,
        asked: Tensor | None = None,
        draws: int = 1,
    ) -> None:
        self.goal, self._classifier = goal, classifier
        self._keys, self._asked, self._draws = keys, asked, draws
        self._ledger = _Ledger(attack, x, nearest)
        self._rows: Tensor | None = None  # of the ledger, None for all
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)

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
        part.fooled = self.fooled[rows]
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
        self.fooled = self.goal.reached(logits)
        if self._ledger.nearest and (self._keys is not None or self._draws > 1):
            self.fooled = self._confirmed(x)
        if self._rows is None:
            self._ledger.enter(x, self.fooled)
        else:
            self._ledger.enter_some(x, self.fooled, self._rows)

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

    def __init__(self, attack: Attack, x: Tensor, nearest: bool) -> None:
        self.x, self.fooling, self.nearest = x, x, nearest
        self.distance = DISTANCES[attack.norm]
        radius = torch.full((len(x),), attack.eps + ROUNDING, dtype=torch.float64, device=x.device)
        self.radius = radius.to(x.dtype)  # where it is too large for it, infinite
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.forward, self.backward = (torch.zeros(len(x), dtype=torch.int64) for _ in range(2))
        self._slope: Tensor | None = None  # the last gradient for all images, or where it is zero

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

    def enter(self, x: Tensor, fooled: Tensor) -> None:
        """Note one point of every image."""
        new = fooled if self.nearest else fooled & ~self.reached
        if new.any():
            distance = self.distance(x, self.x)
            new = new & _in_box(x) & (distance <= self.radius)
            if self.nearest:
                self.radius = torch.where(new, distance, self.radius)
            self.fooling = torch.where(wide(new), x, self.fooling)
            self.reached = self.reached | new

    def enter_some(self, x: Tensor, fooled: Tensor, rows: Tensor) -> None:
        """Note points of some images: of several of one image the nearest, or the first."""
        new = fooled if self.nearest else fooled & ~self.reached[rows]
        if not new.any():
            return
        x, rows = x[new], rows[new]
        distance = self.distance(x, self.x[rows])
        counts = _in_box(x) & (distance <= self.radius[rows])
        x, rows, distance = x[counts], rows[counts], distance[counts]
        if self.nearest:  # stable, so that of equals the first is taken
            order = distance.argsort(stable=True)
            x, rows, distance = x[order], rows[order], distance[order]
        first = torch.full((len(self.x),), len(x), device=x.device)
        first.scatter_reduce_(0, rows, torch.arange(len(x), device=x.device), "amin")
        found = first < len(x)
        chosen = first[found]
        fooling = self.fooling.clone()
        fooling[found] = x[chosen]
        self.fooling = fooling
        if self.nearest:
            self.radius[found] = distance[chosen]
        self.reached = self.reached | found


def _all_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(dim=1)


def _finite(answer: Tensor) -> Tensor:
    """What is not finite as 0: one image's NaN would stay in the state of its attack."""
    return answer.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _in_box(x: Tensor) -> Tensor:
    return ((x >= 0) & (x <= 1)).flatten(1).all(dim=1)


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
        answers = Answers(classifier, attack, part, part_goal, keys=own, draws=draws)
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
        answers = Answers(classifier, attack, part, part_goal, nearest=True, keys=own, draws=draws)
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
    """
    if attack.parts:
        kept = (snapshot, snapshot_seconds)
        return _search_in_turn(attack, classifier, x, goal, noise, batch, draws, *kept)
    moving = _Search(attack, classifier, x, goal, noise, batch, draws)
    return moving.run(snapshot, snapshot_seconds)


def _search_in_turn(
    attack: Attack,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    noise: Noise,
    batch: int,
    draws: int,
    snapshot: Snapshot | None,
    seconds: float,
) -> Attacked:
    """Each part on the images that those before it left standing."""
    first, rows, earlier, inside = 0, torch.arange(len(x)), 0, None
    whole: Attacked | None = None
    saved = None if snapshot is None else snapshot.load()
    if saved is not None:
        first, rows, earlier = saved["part"], saved["rows"], saved["earlier"]
        inside, whole = saved["inside"], saved["whole"] and Attacked(**saved["whole"])
    for k, (part, own) in enumerate(_parts(attack, noise)):
        if k < first:
            continue
        device = device_of(classifier)
        left = own.take(rows.numpy(), own.draws[rows.numpy()])
        around = {"part": k, "rows": rows, "earlier": earlier, "whole": whole and vars(whole)}
        found = search(
            part,
            classifier,
            x[rows],
            goal.take(rows.to(device)),
            left,
            batch=batch,
            draws=draws,
            snapshot=None if snapshot is None else Part(snapshot, around, inside),
            snapshot_seconds=seconds,
        )
        inside = None
        if whole is None:
            whole = found
        else:
            whole.x_adv[rows] = found.x_adv
            whole.forward[rows] += found.forward
            whole.backward[rows] += found.backward
            success = found.first_success
            whole.first_success[rows] = torch.where(success < 0, -1, success + earlier)
        rows = rows[found.first_success < 0]
        earlier += part.steps * part.restarts
    if whole is None:
        raise ValueError(f"{attack!r}: expected parts, found none")
    return whole


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

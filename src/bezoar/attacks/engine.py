"""Three ways to run an attack, for three purposes.

``perturb`` gives every image one start and all the steps: what training on adversarial images
wants, and what the loss under a one-step attack is measured on. ``search`` looks for a fooling
image and stops at the first: what robust accuracy wants, at a fraction of the passes. ``shrink``
goes on to the nearest fooling image: what the distance to the border wants.

The first of many points that fools a random classifier was often only lucky. So ``search`` takes
all steps there and judges the last point by fresh draws, and ``shrink`` counts a point when fresh
draws say the same.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bezoar.attacks.protocol import Attack, Goal
from bezoar.attacks.refilled import Refilled
from bezoar.attacks.task import Attacked, Task, packed
from bezoar.seeds import Noise
from bezoar.snapshots import Part, Snapshot, Tree

__all__ = ["Attacked", "perturb", "search", "shrink"]


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
    return _perturb(Task(attack, classifier, x, goal, noise, batch, draws))


def _perturb(task: Task) -> Attacked:
    attack, done = task.attack, Attacked.none_yet(task.x)
    if attack.parts:
        return _perturb_in_turn(task)
    every = torch.arange(len(task.x)).split(task.batch)
    if attack.refines:
        for rows in every:
            _shrink(task, rows, 1, done, None, 0)
        return done
    for rows in every:
        clean = task.clean(rows)
        answers = task.answers(rows, clean, keep="none")
        state = task.start(rows, clean, answers, 0)
        for step in range(attack.steps):
            state = attack.step(state, answers)
            if step == 0 and answers.zero is not None:
                done.zero_gradient[rows] = answers.zero.cpu()
        done.x_adv[rows] = task.best(state).cpu()
        done.forward[rows], done.backward[rows] = answers.forward, answers.backward
    return done


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
    snapshot: Snapshot | None = None,
    snapshot_seconds: float = 60.0,
) -> Attacked:
    """Look for the nearest fooling image: all steps and starts, whatever was found on the way.

    Every image in ball and box that the attack asked about, and its last one, is judged; an image
    that none fools is handed back as it was. Arguments and units as in ``perturb``, snapshots as in
    ``search``; ``first_success`` is the step of the first fooling image, not of the nearest.

    Cost: what ``starts`` starts of ``steps`` steps cost an image, and a forward pass a start; by
    default there are ``attack.restarts``.
    """
    task = Task(attack, classifier, x, goal, noise, batch, draws)
    starts = attack.restarts if starts is None else starts
    done, first = Attacked.none_yet(x), 0
    inside: Tree | None = None
    saved = None if snapshot is None else snapshot.load()
    if saved is not None:
        done, first, inside = Attacked(**saved["done"]), saved["first"], saved["inside"]
    for start in range(first, len(x), batch):
        rows = torch.arange(start, min(start + batch, len(x)))
        around = {"done": vars(done), "first": start}
        part = None if snapshot is None else Part(snapshot, around, inside)
        _shrink(task, rows, starts, done, part, snapshot_seconds)
        inside = None
    return done


def _shrink(
    task: Task,
    rows: Tensor,
    starts: int,
    done: Attacked,
    snapshot: Snapshot | None,
    seconds: float,
) -> None:
    """Shrink one batch, and enter what was found into ``done``."""
    attack, clean = task.attack, task.clean(rows)
    answers = task.answers(rows, clean, keep="nearest")
    first_start, first_step, state = 0, 0, None
    saved = None if snapshot is None else snapshot.load()
    if saved is not None:
        first_start, first_step = saved["start"], saved["step"]
        state = task.unpacked(saved["state"])
        answers.restore(saved["seen"])

    def note(step: int) -> None:
        new = rows[answers.reached.cpu() & (done.first_success[rows] < 0)]
        done.first_success[new] = step

    last = time.monotonic()
    for start in range(first_start, starts):
        if state is None:
            state = task.start(rows, clean, answers, start)
        for step in range(first_step, attack.steps):
            if snapshot is not None and time.monotonic() - last >= seconds:
                moving = {"state": list(map(packed, state)), "seen": answers.seen()}
                snapshot.save({"start": start, "step": step, **moving})
                last = time.monotonic()
            state = attack.step(state, answers)
            if step == start == 0 and answers.zero is not None:
                done.zero_gradient[rows] = answers.zero.cpu()
            note(start * attack.steps + step)
        answers.logits(task.best(state))
        note((start + 1) * attack.steps)
        state, first_step = None, 0
    done.x_adv[rows] = answers.fooling.cpu()
    done.forward[rows], done.backward[rows] = answers.forward, answers.backward


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
    task = Task(attack, classifier, x, goal, noise, batch, draws)
    return _search(task, low, snapshot, snapshot_seconds)


def _search(
    task: Task, low: nn.Module | None, snapshot: Snapshot | None, seconds: float
) -> Attacked:
    stages = task.parts() if low is None else [replace(task, classifier=low), task]
    if stages:
        return _search_in_turn(stages, task, snapshot, seconds)
    return Refilled(task).run(snapshot, seconds)


def _search_in_turn(
    stages: Sequence[Task], task: Task, snapshot: Snapshot | None, seconds: float
) -> Attacked:
    """Each stage on the images that those before it left standing."""
    first, rows, earlier, inside = 0, torch.arange(len(task.x)), 0, None
    whole = Attacked.none_yet(task.x)
    saved = None if snapshot is None else snapshot.load()
    if saved is not None:
        first, rows, earlier = saved["part"], saved["rows"], saved["earlier"]
        inside, whole = saved["inside"], Attacked(**saved["whole"])
    for k in range(first, len(stages)):
        left = stages[k].take(rows)
        around = {"part": k, "rows": rows, "earlier": earlier, "whole": vars(whole)}
        part = None if snapshot is None else Part(snapshot, around, inside)
        found, inside = _search(left, None, part, seconds), None
        if left.classifier is not task.classifier:
            _confirm(found, replace(left, classifier=task.classifier))
        if k == 0:
            whole.zero_gradient[rows] = found.zero_gradient
        whole.x_adv[rows] = found.x_adv
        whole.forward[rows] += found.forward
        whole.backward[rows] += found.backward
        success = found.first_success
        whole.first_success[rows] = torch.where(success < 0, -1, success + earlier)
        rows = rows[success < 0]
        earlier += _steps(left.attack)
    return whole


def _steps(attack: Attack) -> int:
    """Most steps that a search takes on an image."""
    if attack.parts:
        return sum(map(_steps, attack.parts))
    return attack.steps * attack.restarts


def _confirm(found: Attacked, task: Task) -> None:
    """Take back what was found on another network and does not fool that of the task."""
    judging = task.judging()
    for rows in (found.first_success >= 0).nonzero().squeeze(1).split(task.batch):
        judge = judging.answers(rows, judging.clean(rows))
        judge.decide(found.x_adv[rows].to(task.device))
        found.first_success[rows[~judge.reached.cpu()]] = -1
        found.forward[rows] += judge.forward


def _perturb_in_turn(task: Task) -> Attacked:
    """Each part on all images, in the same batches, for classifiers that see whole batches."""
    whole, standing = Attacked.none_yet(task.x), torch.ones(len(task.x), dtype=torch.bool)
    for k, part in enumerate(task.parts()):
        found, judging = _perturb(part), part.judging()
        if k == 0:
            whole.zero_gradient.copy_(found.zero_gradient)
        whole.x_adv[standing] = found.x_adv[standing]
        whole.forward.add_(found.forward)
        whole.backward.add_(found.backward)
        for rows in torch.arange(len(task.x)).split(task.batch):
            judge = judging.answers(rows, judging.clean(rows), keep="none")
            fooled = judge.decide(found.x_adv[rows].to(task.device))
            standing[rows] &= ~fooled.cpu()
            whole.forward[rows] += judge.forward
    return whole

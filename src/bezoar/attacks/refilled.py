"""The loop of a search: a batch that fooled images leave, and that others fill again."""

import time
from collections import deque
from typing import Any

import torch
from torch import Tensor

from bezoar.attacks.oracle import Answers
from bezoar.attacks.task import Attacked, Task, packed, unpacked
from bezoar.snapshots import Snapshot, Tree

NOTED = ("restart", "rows", "age")


class Refilled:
    """The moving parts of one search: images waiting, under attack, and waiting for judgement."""

    def __init__(self, task: Task) -> None:
        self.task, self.attack = task, task.attack
        self.random = task.keys is not None or task.draws > 1
        self.done = Attacked.none_yet(task.x)
        self.restart = torch.zeros(len(task.x), dtype=torch.int64)
        self.waiting = deque(range(len(task.x)))
        # Under attack: row of x, and its age in steps.
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.age = torch.zeros(0, dtype=torch.int64)
        self.clean: Any = None  # their clean images
        self.state: Any = None
        self.unjudged: list[tuple[Tensor, Tensor]] = []  # rows and last points

    def run(self, snapshot: Snapshot | None, seconds: float) -> Attacked:
        """Search until all images are judged, from the snapshot's state if it has one."""
        saved = None if snapshot is None else snapshot.load()
        if saved is not None:
            self._load(saved)
        last, batch = time.monotonic(), self.task.batch
        while self.waiting or len(self.rows) or self.unjudged:
            if snapshot is not None and time.monotonic() - last >= seconds:
                snapshot.save(self._state())
                last = time.monotonic()
            # Refill in lumps: a vacancy of a quarter costs less than joining states every step.
            if self.waiting and len(self.rows) <= 3 * batch // 4:
                self._refill()
            if len(self.rows) and self.attack.steps:
                self._step()
            self._retire(self.age >= self.attack.steps)
            idle = not len(self.rows) and not self.waiting
            if self.unjudged and (idle or sum(len(r) for r, _ in self.unjudged) >= batch):
                self._judge()
        return self.done

    def _state(self) -> Tree:
        """All that moves, for a snapshot."""
        state = [] if self.state is None else list(map(packed, self.state))
        clean = [] if self.clean is None else [packed(self.clean)]
        unjudged = [[rows, packed(points)] for rows, points in self.unjudged]
        noted = {name: getattr(self, name) for name in NOTED}
        waiting = torch.tensor(list(self.waiting), dtype=torch.int64)
        parts = {"waiting": waiting, "clean": clean, "state": state, "unjudged": unjudged}
        return {"done": vars(self.done), **noted, **parts}

    def _load(self, saved: Tree) -> None:
        for name in NOTED:
            setattr(self, name, saved[name])
        self.done = Attacked(**saved["done"])
        self.waiting = deque(saved["waiting"].tolist())
        device = self.task.device
        self.unjudged = [(rows, unpacked(points, device)) for rows, points in saved["unjudged"]]
        if saved["state"]:
            self.clean = unpacked(saved["clean"][0], device)
            self.state = self.task.unpacked(saved["state"])

    def _refill(self) -> None:
        room = min(self.task.batch - len(self.rows), len(self.waiting))
        rows = torch.tensor([self.waiting.popleft() for _ in range(room)])
        clean = self.task.clean(rows)
        answers = self._answers(rows, clean)
        fresh = self.task.start(rows, clean, answers, self.restart[rows])
        age = torch.zeros(room, dtype=torch.int64)
        kept = self._noted(answers, rows, age)
        clean, *entries = (entry[kept.to(self.task.device)] for entry in (clean, *fresh))
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
            self.done.zero_gradient[self.rows[first]] = answers.zero.cpu()[first]
        kept = self._noted(answers, self.rows, self.age)
        if not kept.all():
            self._keep(kept)
        self.age += 1

    def _answers(self, rows: Tensor, clean: Tensor) -> Answers:
        return self.task.answers(rows, clean, asked=self.done.forward[rows])

    def _noted(self, answers: Answers, rows: Tensor, age: Tensor) -> Tensor:
        """Write down what was asked and found; return which images still stand."""
        self.done.forward[rows] += answers.forward
        self.done.backward[rows] += answers.backward
        if self.random:
            return torch.ones_like(rows, dtype=torch.bool)
        fooled = answers.reached.cpu()
        if fooled.any():
            found = rows[fooled]
            self.done.x_adv[found] = answers.fooling[answers.reached].cpu()
            self.done.first_success[found] = self.restart[found] * self.attack.steps + age[fooled]
        return ~fooled

    def _retire(self, ended: Tensor) -> None:
        if ended.any():
            points = self.task.best(self.state)
            self.unjudged.append((self.rows[ended], points[ended]))
            self._keep(~ended)

    def _keep(self, kept: Tensor) -> None:
        self.rows, self.age = self.rows[kept], self.age[kept]
        on_device = kept.to(self.task.device)
        self.clean = self.clean[on_device]
        self.state = type(self.state)(*(entry[on_device] for entry in self.state))

    def _judge(self) -> None:
        rows = torch.cat([r for r, _ in self.unjudged])
        points = torch.cat([p for _, p in self.unjudged])
        self.unjudged, done, batch = [], self.done, self.task.batch
        for part, x_adv in zip(rows.split(batch), points.split(batch), strict=True):
            answers = self._answers(part, self.task.clean(part))
            answers.logits(x_adv)
            fooled = answers.reached.cpu()
            done.forward[part] += answers.forward
            # One that walks outside the ball may end there: its last point is no result.
            done.x_adv[part] = (answers.fooling if self.attack.refines else x_adv).cpu()
            starts = self.restart[part] + 1
            done.first_success[part[fooled]] = (starts * self.attack.steps)[fooled]
            again = part[~fooled & (starts < self.attack.restarts)]
            self.restart[again] += 1
            self.waiting.extend(again.tolist())

"""Run a recipe of repairs: bases, repairs, fresh attacks on the test split, one table.

Every cell (network, case, seed) is kept in the run folder as soon as it is done, so a reproduction
may be killed and started again, and processes may share it by network and seed.
"""

import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from bezoar import audit, checkpoints, models, recipes
from bezoar.attacks import FGSM, PGD, Attack
from bezoar.costs import Meter
from bezoar.defence import Evidence
from bezoar.files import read_json, replacing, write_json
from bezoar.referee import measure, metric_of
from bezoar.repairs import Repair
from bezoar.reproduce.order import Order
from bezoar.reproduce.plans.repairs import Case, Network, Recipe, merged, plan
from bezoar.reproduce.sized import Sets, beside
from bezoar.results import Rate
from bezoar.sanity import Warning
from bezoar.training import Training


class Reproduction:
    """A recipe at one size, in one run folder.

    Args:
        recipe: as ``read`` gives it.
        size: one of its sizes.
        order: what to do of it here.
    """

    def __init__(self, recipe: Recipe, size: str, order: Order) -> None:
        self._plan = plan(recipe, size)
        self.size, self.recipe, self._order = self._plan.size, recipe, order
        order.require("network", self._plan.kinds, self.size.seeds)
        self._only = set(order.only or self._plan.kinds)
        self._seeds = list(order.seeds or self.size.seeds)
        counts = {"train": self.size.train, "validation": self.size.validation}
        self._data = Sets(order.root, **counts, test=self.size.tested)[recipe.data]
        self._run = order.run(recipe, size)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part."""
        for network, cases in self._plan.networks:
            if network.kind in self._only:
                self._work(network, cases)
        complete = self._only == set(self._plan.kinds) and self._seeds == self.size.seeds
        return self.table() if complete else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; cells that are not are named under ``missing``.

        Raises:
            ValueError: nothing is done.
        """
        table: list[audit.Row] = []
        found: dict[str, list[Warning]] = {}
        missing: list[str] = []
        for network, cases in self._plan.networks:
            for case, seed in product([Case(name="none"), *cases], self.size.seeds):
                done = case if case.name else self._winner(network.winner_of)
                name = network.prefix + done.name
                files = [self._cell(network, done, seed, f) for f in ("rows.json", "beside.json")]
                if not all(path.exists() for path in files):
                    missing.append(f"{name}, seed {seed}")
                    continue
                cell, further = map(read_json, files)
                table += [*cell["rows"], *further["rows"]]
                suspect = [Warning(**warning) for warning in cell["warnings"]]
                found.setdefault(name, []).extend(suspect)
        if not table:
            raise ValueError(f"{self._run.path}: expected measured cells, found none")
        results = audit.results(self._order.notes, beside(table, self.recipe.published), found)
        return {**results, "missing": missing} if missing else results

    def figures(self) -> dict[str, Figure]:
        """Pictures that stand on the page, by file name: none."""
        return {}

    # ---------------------------------------------------------------- what is done, and where

    def _folder(self, network: Network, case: Case, seed: int) -> Path:
        name = case.name.replace(" ", "-")
        return self._run.path / network.kind / name / f"seed{seed}"

    def _cell(self, network: Network, case: Case, seed: int, file: str = "rows.json") -> Path:
        return self._folder(network, case, seed) / file

    def _work(self, network: Network, cases: Sequence[Case]) -> None:
        none = Case(name="none")
        for seed in self._seeds:
            self._base(network, seed)
        done = [none]
        for case in cases:
            done.append(self._resolved(network, case))
            for seed in self._seeds:
                self._repaired(network, done[-1], seed)
        for case in reversed(done):  # the case that the recipe leads up to first
            for seed in self._seeds:
                self._measured(network, case, seed)
                self._measured_beside(network, case, seed)

    def _base(self, network: Network, seed: int) -> nn.Module:
        """The trained base of a seed, from its file where it is there."""
        path = self._folder(network, Case(name="none"), seed) / "model.safetensors"
        if not path.exists():
            training: Training = recipes.build(Training, network.training, "training")
            model = self._untrained(network, seed)
            snapshot = self._run.snapshot(f"{network.kind}-base-{seed}")
            log, meter = training(
                model,
                self._data.train,
                self._data.validation,
                seed=seed,
                snapshot=snapshot,
                on_step=self._order.on_step,
            )
            self._save(path, model, seed, repr(training), log, meter)
            snapshot.clear()
        return checkpoints.load(path).model

    def _untrained(self, network: Network, seed: int) -> nn.Module:
        classes = len(self._data.classes)
        return models.create(network.kind, shape=self._data.shape, classes=classes, seed=seed)

    def _repaired(self, network: Network, case: Case, seed: int) -> nn.Module:
        path = self._folder(network, case, seed) / "model.safetensors"
        if not path.exists():
            self._repair(network, case, seed, path)
        return checkpoints.load(path).model

    def _repair(self, network: Network, case: Case, seed: int, path: Path) -> None:
        repair: Repair = recipes.method(Repair, case.repair, case.name)
        start = self._base if case.start == "base" else self._untrained
        snapshot = self._run.snapshot(f"{network.kind}-{path.parent.parent.name}-{seed}")
        evidence = Evidence(self._data.train, self._data.validation)
        done = repair(
            start(network, seed),
            evidence,
            seed=seed,
            snapshot=snapshot,
            on_step=self._order.on_step,
        )
        self._save(path, done.classifier, seed, repr(repair), done.log, done.cost)
        snapshot.clear()
        last = done.log[-1]
        found = f"validation clean {last['clean']:.4f}, robust {last['robust']:.4f}"
        self._order.say(
            f"{network.kind} {case.name}, seed {seed}: {found}, {done.cost.seconds:.0f} s"
        )

    def _save(
        self,
        path: Path,
        model: nn.Module,
        seed: int,
        method: str,
        log: list[dict[str, float]],
        cost: Meter,
    ) -> None:
        """Keep a model; its record is written first, so a model in place is a case that is done."""
        validation = self._on_validation(model, seed)
        record = {"method": method, "seed": seed, "log": log, "cost": cost.as_dict()}
        write_json(path.parent / "training.json", {**record, "validation": validation})
        training = {"method": method, "seed": seed, "data": self._data.train.name}
        checkpoints.save(path, model, classes=self._data.classes, training=training)

    def _on_validation(self, model: nn.Module, seed: int) -> float:
        """Robust accuracy on validation under the recipe's judge: what winners are chosen by."""
        found = measure(self._plan.judge, model, self._data.validation, seed=seed)
        return found.facts.robust_accuracy.value

    # ---------------------------------------------------------------- choices, on validation

    def _resolved(self, network: Network, case: Case) -> Case:
        """The case with its winner and the best of its trials filled in."""
        repair, name = case.repair, case.name
        if not repair:
            won = self._winner(network.winner_of)
            repair, name = won.repair, won.name
        if not case.trials:
            return Case(name=name, repair=repair, start=case.start)
        seed = self.size.seeds[0]
        tried = [
            Case(name=f"{name} trial {k}", repair=merged(repair, trial), start=case.start)
            for k, trial in enumerate(case.trials, start=1)
        ]
        for trial in tried:
            self._repaired(network, trial, seed)
        records = [self._record(network, trial, seed) for trial in tried]
        target = recipes.method(Repair, tried[0].repair, name).stop.target
        best = best_of(records, target)
        chosen = Case(name=name, repair=tried[best].repair, start=case.start, trials=case.trials)
        for file in ("training.json", "model.safetensors"):  # the trial is the case, on this seed
            there = self._folder(network, chosen, seed) / file
            if not there.exists():
                with replacing(there) as unfinished:
                    shutil.copyfile(self._folder(network, tried[best], seed) / file, unfinished)
        return chosen

    def _winner(self, kind: str) -> Case:
        """The case with the highest mean robust accuracy on validation, on another network."""
        network, cases = next(pair for pair in self._plan.networks if pair[0].kind == kind)

        def mean(case: Case) -> float:
            found = [self._record(network, case, seed)["validation"] for seed in self.size.seeds]
            return float(sum(found)) / len(found)

        return max(cases, key=mean)

    def _record(self, network: Network, case: Case, seed: int) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self._folder(network, case, seed) / "training.json")
        return record

    # ---------------------------------------------------------------- measured on the test split

    def _measured(self, network: Network, case: Case, seed: int) -> None:
        path = self._cell(network, case, seed)
        if path.exists():
            return
        model = self._model(network, case, seed)
        test, name = self._data.test, network.prefix + case.name
        few = test.first(min(self.size.restarted, len(test)))
        own = [measure(attack, model, test, seed=seed) for attack in self._attacks()]
        eps = self.recipe.eps
        many = PGD(eps=eps, steps=40, restarts=5)
        own.append(measure(many, model, few, seed=seed, metric=f"pgd40x5@{eps:g}"))
        # At half the radius, to tell a masked gradient from a curved loss; see sanity.
        own.append(measure(PGD(eps=eps / 2, steps=40), model, few, seed=seed))
        table = audit.rows(name, own)
        table += self._costs(network, case, seed)
        found = [warning.as_dict() for warning in audit.suspicions(model, test, own)]
        write_json(path, {"rows": table, "warnings": found})
        shown = {row["metric"]: row["value"] for row in table}
        figures = ", ".join(
            f"{m} {shown[m]:.4f}" for m in ("clean", f"fgsm@{eps:g}", f"pgd40@{eps:g}")
        )
        self._order.say(f"{network.kind} {case.name}, seed {seed}, test: {figures}")

    def _attacks(self) -> list[Attack]:
        return [*(FGSM(eps=eps) for eps in self.recipe.curve), PGD(eps=self.recipe.eps, steps=40)]

    def _measured_beside(self, network: Network, case: Case, seed: int) -> None:
        """What less than a white-box attack leaves, and what the label in the attack gives away.

        An attack that knows the label can write it into the image. On images that are classified
        right, away from the label and away from the prediction are the same: so these two are
        compared by the accuracy after the attack, which counts what it put right.
        """
        path = self._cell(network, case, seed, "beside.json")
        if path.exists():
            return
        model, name = self._model(network, case, seed), network.prefix + case.name
        attack, test = FGSM(eps=self.recipe.eps), self._data.test
        metric = metric_of(attack)
        known = measure(attack, model, test, seed=seed)
        guessed = measure(attack, model, test, seed=seed, away_from="predicted")
        rates = {
            f"attacked:{metric}": known.facts.attacked_accuracy,
            f"attacked:predicted:{metric}": guessed.facts.attacked_accuracy,
        }
        aims = {}
        seeds = self.size.seeds
        another = seeds[(seeds.index(seed) + 1) % len(seeds)]
        if another != seed:
            aims["transfer"] = self._model(network, case, another)
        if case.name != "none" and case.start == "base":
            aims["stale"] = self._base(network, seed)
        for what, aim in aims.items():
            found = measure(attack, model, test, seed=seed, aim=aim)
            rates[f"{what}:{metric}"] = found.facts.robust_accuracy
        table = [audit.rate_row(name, seed, key, rate) for key, rate in rates.items()]
        write_json(path, {"rows": table})

    def _model(self, network: Network, case: Case, seed: int) -> nn.Module:
        if case.name == "none":
            return self._base(network, seed)
        return self._repaired(network, case, seed)

    def _costs(self, network: Network, case: Case, seed: int) -> list[audit.Row]:
        """Passes and seconds: of the repair alone, of its base, of its trials."""
        name = network.prefix + case.name
        record = self._record(network, case, seed)
        base = self._record(network, Case(name="none"), seed)
        numbers = {
            "passes": _passes(record),
            "seconds": record["cost"]["seconds"],
            "rounds": record["log"][-1]["round"],
            "added": record["log"][-1].get("added", 0.0),
            "removed": record["log"][-1].get("removed", 0.0),
        }
        if case.name != "none":
            started = case.start == "base"
            numbers["passes:with base"] = _passes(record) + started * _passes(base)
            numbers["seconds:with base"] = (
                record["cost"]["seconds"] + started * base["cost"]["seconds"]
            )
        if case.trials and seed == self.size.seeds[0]:
            tried = [
                self._record(network, Case(name=f"{case.name} trial {k}"), seed)
                for k in range(1, len(case.trials) + 1)
            ]
            numbers["passes:trials"] = sum(map(_passes, tried))
            numbers["seconds:trials"] = sum(record["cost"]["seconds"] for record in tried)
        found = [audit.number_row(name, seed, key, value) for key, value in numbers.items()]
        validation = Rate(
            round(record["validation"] * len(self._data.validation)), len(self._data.validation)
        )
        judged = f"validation:{metric_of(self._plan.judge)}"
        return [*found, audit.rate_row(name, seed, judged, validation)]


def best_of(records: Sequence[Mapping[str, Any]], target: float) -> int:
    """Which trial is taken: the cheapest that reaches the target, see ``Case.trials``."""
    reached = [k for k, record in enumerate(records) if record["log"][-1]["robust"] >= target]
    least = min((_passes(records[k]) for k in reached), default=0.0)
    # Passes of equal trainings differ a little: attacks leave out what is fooled already.
    cheap = [k for k in reached if _passes(records[k]) <= 1.01 * least]
    return max(cheap or range(len(records)), key=lambda k: records[k]["validation"])


def _passes(record: Mapping[str, Any]) -> float:
    return float(record["cost"]["forward"] + record["cost"]["backward"])

"""A small recipe, through and through."""

import json

import pytest

from bezoar import cli, reproduce
from bezoar.repairs import Correct
from bezoar.report import sheet, tables
from bezoar.reproduce.repairs import Reproduction
from bezoar.training import Training

NOTES = {"command": "bezoar reproduce toy", "version": "0", "revision": "a", "machine": "2 cores"}

RECIPE = """
format = 1
name = "toy"
paper = "none"
data = "digits"
eps = 0.1
curve = [0.05, 0.1, 0.2, 0.3]
judge = { name = "fgsm", eps = 0.1 }

[sizes.one]
seeds = [0, 1]
train = 200
validation = 40
tested = 50
restarted = 10

[sizes.alone]
seeds = [3]
train = 100
validation = 20
tested = 20
restarted = 20

[[network]]
kind = "lenet-fig4"
training = { epochs = 1 }
[[network.case]]
name = "correct online fgsm"
repair = { name = "correct", inner = "fgsm", stop = { rounds = 1, target = 2.0, judge = "fgsm" } }
[[network.case]]
name = "remove none continue"
[network.case.repair]
name = "remove"
k = 0
epochs = 1
retrain = "continue"
stop = { rounds = 1, target = 2.0, judge = "fgsm" }

[[network]]
kind = "lenet5"
prefix = "big "
training = { epochs = 1 }
winner_of = "lenet-fig4"
[[network.case]]
name = "from scratch"
start = "scratch"
repair = { name = "correct", inner = "fgsm", stop = { rounds = 1, target = 2.0, judge = "fgsm" } }
[[network.case]]
trials = [{ lr = 0.0 }, { lr = 0.001, batch = 32 }]
"""


def written(tmp_path, text=RECIPE):
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return path


def order(folder, **more):
    return reproduce.Order(out=folder / "run", notes=NOTES, **more)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The recipe after its run: the folder, and the results."""
    folder = tmp_path_factory.mktemp("reproduced")
    recipe = reproduce.read(written(folder))
    return folder, Reproduction(recipe, "one", order(folder))()


def cases(results):
    return list(dict.fromkeys(row["case"] for row in results["rows"]))


def of(results, case, metric):
    rows = results["rows"]
    return [row["value"] for row in rows if (row["case"], row["metric"]) == (case, metric)]


def test_every_case_has_every_metric_for_every_seed(done):
    _, results = done
    assert len(tables.validate(results)) == len(results["rows"])
    assert "missing" not in results
    first, second, base, scratch, won, *rest = (cases(results)[k] for k in (1, 2, 3, 4, 5))
    assert (first, second) == ("correct online fgsm", "remove none continue")
    assert (base, scratch, rest) == ("big none", "big from scratch", [])
    assert won in (f"big {first}", f"big {second}")
    measured = ["clean", "fgsm@0.05", "fgsm@0.1", "fgsm@0.2", "fgsm@0.3", "pgd40@0.1"]
    others = [
        "pgd40x5@0.1",
        "attacked:fgsm@0.1",
        "attacked:predicted:fgsm@0.1",
        "transfer:fgsm@0.1",
        "validation:fgsm@0.1",
    ]
    counts = {len(of(results, c, m)) for c in cases(results) for m in [*measured, *others]}
    assert counts == {2}
    assert of(results, "none", "stale:fgsm@0.1") == []
    assert of(results, "big from scratch", "stale:fgsm@0.1") == []
    assert len(of(results, won, "stale:fgsm@0.1")) == 2
    assert len(of(results, won, "passes:trials")) == 1


def test_the_winner_is_the_most_robust_on_validation(done):
    _, results = done
    means = {
        case: sum(of(results, case, "validation:fgsm@0.1"))
        for case in ("correct online fgsm", "remove none continue")
    }
    assert cases(results)[5] == f"big {max(means, key=means.get)}"


def test_the_trial_that_learns_nothing_loses(done):
    folder, results = done
    name = cases(results)[5].removeprefix("big ").replace(" ", "-")
    path = folder / "run" / "lenet5" / name / "seed1" / "training.json"
    assert "batch=32" in json.loads(path.read_text())["method"]


@pytest.mark.parametrize(
    ("trials", "taken"),
    [
        ([(0.97, 200, 0.96), (0.98, 100, 0.95)], 1),  # both reach it: the cheaper
        ([(0.96, 100, 0.98), (0.97, 200, 0.95)], 1),  # only one reaches it
        ([(0.97, 1000, 0.96), (0.97, 1009, 0.97)], 1),  # at the same cost: the more robust
        ([(0.97, 1000, 0.96), (0.97, 1011, 0.97)], 0),
        ([(0.90, 100, 0.91), (0.95, 900, 0.94), (0.93, 50, 0.92)], 1),  # none: the most robust
    ],
)
def test_the_trial_that_is_taken(trials, taken):
    records = [
        {"log": [{"robust": 0.0}, {"robust": last}], "validation": judged, "cost": passes}
        for last, cost, judged in trials
        for passes in [{"forward": cost / 2, "backward": cost / 2}]
    ]
    assert reproduce.repairs.best_of(records, 0.97) == taken


def test_costs_count_the_base_where_the_repair_starts_from_it(done):
    _, results = done
    scratch, won = "big from scratch", cases(results)[5]
    assert of(results, scratch, "passes:with base") == of(results, scratch, "passes")
    base, alone = of(results, "big none", "passes"), of(results, won, "passes")
    assert of(results, won, "passes:with base") == [a + b for a, b in zip(alone, base, strict=True)]


def test_a_second_run_computes_nothing(done, monkeypatch):
    folder, results = done
    computed = []
    monkeypatch.setattr(reproduce.repairs, "measure", lambda *_, **__: computed.append("measured"))
    monkeypatch.setattr(Training, "__call__", lambda *_, **__: computed.append("trained"))
    monkeypatch.setattr(Correct, "__call__", lambda *_, **__: computed.append("repaired"))
    recipe = reproduce.read(folder / "toy.toml")
    assert Reproduction(recipe, "one", order(folder))() == results
    assert computed == []


def test_the_page_is_that_of_the_table(done, tmp_path):
    _, results = done
    data, page = sheet.write(results, "toy", tmp_path / "results", tmp_path / "pages")
    assert json.loads(data.read_text()) == results
    assert page.read_text() == sheet.page(results, "toy")
    assert "| big none |" in page.read_text()


def test_networks_can_be_shared_among_processes(tmp_path):
    recipe = reproduce.read(written(tmp_path))
    first = Reproduction(recipe, "alone", order(tmp_path, only=["lenet-fig4"]))
    assert first() is None
    last = Reproduction(recipe, "alone", order(tmp_path))()
    assert len(cases(last)) == 6
    assert of(last, "none", "transfer:fgsm@0.1") == []  # one seed: there is no other network


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", r"toy\.toml: format=2: expected 1; update bezoar"),
        ("paper =", "papers =", r"toy\.toml: setting 'papers': .*did you mean 'paper'"),
        ('name = "toy"', "name = 3", r"toy\.toml\.name=3"),
        ("format = 1", "", "format"),
        ("train = 200", "trains = 200", "sizes.one: setting 'trains': .*did you mean 'train'"),
        ("seeds = [0, 1]", "seeds = [0.5]", r"sizes\.one\.seeds"),
        ('"lenet-fig4"\ntraining', '"lenet-fig5"\ntraining', "did you mean 'lenet-fig"),
        ("prefix =", "prefixes =", "network: setting 'prefixes': .*did you mean 'prefix'"),
        ("{ epochs = 1 }", "{ epoch = 1 }", "training: setting 'epoch': .*did you mean 'epochs'"),
        ("repair = {", "repairs = {", "setting 'repairs': .*did you mean 'repair'"),
        ("start =", "starts =", "setting 'starts': .*did you mean 'start'"),
        ('"scratch"', '"nothing"', "start='nothing'"),
        ('inner = "fgsm"', 'inner = "fgsn"', "attack 'fgsn': .*did you mean 'fgsm'"),
        ('winner_of = "lenet-fig4"', 'winner_of = "lenet"', "network 'lenet': expected one of"),
        ('winner_of = "lenet-fig4"', "", "expected a repair, or winner_of"),
        ('judge = { name = "fgsm"', 'judge = { name = "fgs"', "attack 'fgs': .*'fgsm'"),
        ('data = "digits"', 'data = "digit"', "data set 'digit': .*did you mean 'digits'"),
    ],
)
def test_what_is_unknown_in_a_recipe_is_refused_before_anything_is_made(
    tmp_path, old, new, message
):
    assert old in RECIPE
    path = written(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        Reproduction(reproduce.read(path), "one", order(tmp_path))
    assert list(tmp_path.iterdir()) == [path]


def test_the_recipes_that_come_along_can_be_read(data_root, tmp_path):
    from bezoar import recipes

    recipe = reproduce.read(recipes.find("lenet-fgsm"))
    Reproduction(recipe, "smoke", order(tmp_path, root=data_root))
    assert (tmp_path / "run" / "run.json").exists()


def test_the_command_writes_the_table_and_the_page(tmp_path, monkeypatch, capsys):
    path = written(tmp_path)
    monkeypatch.setattr("bezoar.recipes.folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "toy", "--size", "alone"]
    assert cli.run([*words, "--only", "lenet-fig4"]) == 0
    assert "the table is written without --only" in capsys.readouterr().out
    assert cli.run(words) == 0
    assert capsys.readouterr().out.splitlines() == ["results/toy.json", "docs/results/toy.md"]
    path.write_text(RECIPE.replace("tested = 20", "tested = 19"))
    assert cli.run(words) == 2
    assert "recipe.sizes.alone.tested=20, not 19" in capsys.readouterr().err

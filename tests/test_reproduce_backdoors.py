"""A recipe of backdoors on the embedded digits, from the file to the page."""

import json
import tomllib

import pytest

from bezoar import cli, recipes, reproduce
from bezoar.report import sheet

NOTES = {"command": "bezoar reproduce toy", "version": "0", "revision": "a", "machine": "2 cores"}

RECIPE = """
format = 1
name = "toy"
paper = "arXiv:2405.03918"
about = ["a toy"]
average = ["badnets", "lf"]

[sizes.one]
samples = 2
budgets = [2]
train = 400
test = 60
caps = { epochs = 2 }
instead = { "grad-prune" = { filters = 2 }, "digits grad-prune spc2" = { filters = 1 } }

[sizes.less]
samples = 1
budgets = [2]
without = ["digits tuning alone oracle"]

[[subject]]
data = "digits"
network = "lenet-fig4"
training = { epochs = 9, lr = 0.003 }
target = 3

[[plant]]
name = "badnets"
trigger = { name = "badnets", size = 2 }
victims = [0, 4]

[[plant]]
name = "lf"
trigger = { name = "lf", images = 3, passes = 1, steps = 5 }

[[cure]]
name = "grad-prune"
source = "oracle"
repair = { name = "grad-prune", source = "oracle", filters = 3, folds = 2 }
attacks = ["badnets"]

[[cure]]
name = "ft"
repair = { name = "ft", batch = 16 }
budgets = [3]

[[cure]]
name = "tuning alone"
source = "oracle"
repair = { name = "grad-prune", source = "oracle", filters = 0, folds = 2 }
attacks = ["badnets"]

[[pair]]
name = "pruning"
first = "grad-prune oracle"
second = "tuning alone oracle"

[published]
"digits badnets none none spc0" = { asr = 0.95 }
"""


def written(folder):
    path = folder / "toy.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    said = []
    work = reproduce.opened(
        written(folder), "one", folder / "run", lambda command: NOTES, say=said.append
    )
    return folder, work(), said


def places(table):
    return {(row["case"], row["seed"], row["metric"]) for row in table["rows"]}


def test_every_victim_and_every_cell_has_its_rows(done):
    cured = {"clean", "asr", "ra", "der", "drop", "seconds", "passes"}
    sick = {"clean", "asr", "ra"}
    expected = {("digits none none none spc0", 0, "clean")}
    expected |= {("digits badnets healthy none spc0", s, m) for s in (0, 40) for m in sick}
    expected |= {
        (f"digits {name} healthy none spc0", 0, m) for name in ("lf", "average") for m in sick
    }
    expected |= {("digits badnets none none spc0", s, m) for s in (0, 40) for m in sick}
    expected |= {("digits lf none none spc0", 0, m) for m in sick}
    prune = "digits badnets grad-prune oracle spc2"
    expected |= {(prune, s, m) for s in (0, 1, 40, 41) for m in cured}
    alone = "digits badnets tuning alone oracle spc2"
    expected |= {(alone, s, m) for s in (0, 1, 40, 41) for m in cured}
    gains = {f"gain:{m}" for m in ("clean", "ra", "asr")}
    pruning = "digits badnets pruning oracle spc2"
    expected |= {(pruning, s, m) for s in (0, 1, 40, 41) for m in gains}
    expected |= {("digits badnets ft none spc3", s, m) for s in (0, 1, 40, 41) for m in cured}
    expected |= {("digits lf ft none spc3", s, m) for s in (0, 1) for m in cured}
    expected |= {("digits average none none spc0", 0, m) for m in sick}
    expected |= {("digits average ft none spc3", s, m) for s in (0, 1) for m in cured}
    assert places(done[1]) == expected
    assert "missing" not in done[1]


def test_a_gain_is_the_difference_on_the_same_images(done):
    values = {(row["case"], row["seed"], row["metric"]): row["value"] for row in done[1]["rows"]}
    first, second, gain = (
        values[f"digits badnets {name} oracle spc2", 41, metric]
        for name, metric in (("grad-prune", "ra"), ("tuning alone", "ra"), ("pruning", "gain:ra"))
    )
    assert gain == first - second


def test_an_average_is_the_mean_over_the_backdoors_of_the_same_draw(done):
    values = {(row["case"], row["seed"], row["metric"]): row["value"] for row in done[1]["rows"]}
    both, *each = (
        values[f"digits {name} ft none spc3", 1, "asr"] for name in ("average", "badnets", "lf")
    )
    assert both == pytest.approx(sum(each) / 2)


def test_what_was_published_stands_beside_what_was_measured(done):
    told = {row["case"]: row["paper"] for row in done[1]["rows"] if "paper" in row}
    assert told == {"digits badnets none none spc0": 0.95}
    page = sheet.page(done[1], "toy")
    assert "samples 2; budgets [2]; train 400; test 60; grad-prune with filters=2" in page
    assert "![digits badnets: trigger](toy-digits-badnets.png)" in page


def test_the_caps_hold_in_every_training(done):
    from bezoar import checkpoints

    folder = done[0] / "run" / "digits"
    for path in (folder / "clean.safetensors", folder / "badnets-4" / "sick.safetensors"):
        assert "Training(epochs=2" in checkpoints.header(path).training["method"]
    cell = json.loads((folder / "badnets-4" / "ft-none-spc3-1.json").read_text())
    assert "FineTune(epochs=2" in cell["repair"]
    assert [row["round"] for row in cell["log"]] == [0, 1, 2]
    cell = json.loads((folder / "badnets-4" / "grad-prune-oracle-spc2-1.json").read_text())
    assert "filters=1, " in cell["repair"]  # the closest of three


def test_a_run_that_is_done_gives_the_same_table_and_trains_nothing(done, monkeypatch):
    from bezoar import fit

    monkeypatch.setattr(fit, "fit", None)
    again = reproduce.opened(done[0] / "toy.toml", "one", done[0] / "run", lambda command: NOTES)
    assert json.dumps(again()) == json.dumps(done[1])


def test_a_part_is_worked_on_alone_and_what_is_missing_is_named(tmp_path):
    asked = {"only": ["digits badnets"], "seeds": [4]}
    work = reproduce.opened(
        written(tmp_path), "one", tmp_path / "run", lambda command: NOTES, **asked
    )
    assert work() is None
    table = work.table()
    assert {seed for _, seed, _ in places(table)} == {0, 40, 41}  # 0 is the clean control
    assert table["missing"][0] == "digits badnets none none spc0, seed 0"
    assert table["missing"][1:] == ["digits lf none none spc0, seed 0"]  # and so all its cells
    (tmp_path / "run" / "digits" / "badnets-4" / "ft-none-spc3-0.json").unlink()
    left = [*table["missing"], "digits ft none: 1 of 2 draws of badnets"]
    assert work.table()["missing"] == left


def test_one_repair_of_a_backdoor_is_worked_on_alone(tmp_path):
    asked = {"only": ["digits badnets ft none"], "seeds": [4]}
    work = reproduce.opened(
        written(tmp_path), "one", tmp_path / "run", lambda command: NOTES, **asked
    )
    work()
    cells = sorted(path.name for path in (tmp_path / "run/digits/badnets-4").glob("*spc*.json"))
    assert cells == ["ft-none-spc3-0.json", "ft-none-spc3-1.json"]


def test_every_repair_has_its_first_draw_before_any_has_its_second(done):
    seeds = [int(line.split("seed ")[1].split(":")[0]) for line in done[2] if ", ra " in line]
    draws = [seed % 10 for seed in seeds]
    assert len(draws) == 14  # two of each: three repairs of two victims, one of the third
    assert draws == sorted(draws)


def test_a_repair_that_takes_too_long_is_not_asked_at_that_size():
    recipe = recipes.build(reproduce.plans.backdoors.Recipe, tomllib.loads(RECIPE), "toy")
    asked = {size: reproduce.plans.backdoors.plan(recipe, size) for size in ("one", "less")}
    victim = next(asked["one"].victims())
    names = {size: {cell.cure.name for cell in plan.cells(victim)} for size, plan in asked.items()}
    assert names == {"one": {"grad-prune", "ft", "tuning alone"}, "less": {"grad-prune", "ft"}}


def test_a_table_that_is_there_lends_the_rows_of_other_victims(done, tmp_path):
    def opened(**more):
        path, run = done[0] / "toy.toml", tmp_path / "run"
        return reproduce.opened(path, "one", run, lambda command: NOTES, results=tmp_path, **more)

    earlier = {**done[1], "revision": "earlier"}
    left = [row for row in earlier["rows"] if row["seed"] < 40]  # its second victim was not done
    (tmp_path / "toy.json").write_text(json.dumps({**earlier, "rows": left}))
    opened(only=["digits badnets"], seeds=[4])()
    work = opened(keep=True)
    table = work.table()
    assert "missing" not in table
    assert places(table) == places(done[1])
    names = [f"digits {name} none none spc0, seed 0" for name in ("badnets", "lf")]
    assert table["kept"] == [{"revision": "earlier", "machine": NOTES["machine"], "cases": names}]
    assert [*work.figures()] == ["toy-digits-badnets.png"]
    assert table["figures"] == done[1]["figures"]
    assert opened().table()["missing"] == names


def test_the_clean_control_is_that_of_an_earlier_run_while_victims_of_it_are_there(done, tmp_path):
    control = ("digits none none none spc0", "clean")
    rows = [
        {**row, "value": 0.5, "low": 0.0, "high": 1.0}
        if (row["case"], row["metric"]) == control
        else row
        for row in done[1]["rows"]
    ]
    (tmp_path / "toy.json").write_text(json.dumps({**done[1], "rows": rows}))

    def shown(run):
        work = reproduce.opened(
            done[0] / "toy.toml", "one", run, lambda command: NOTES, results=tmp_path, keep=True
        )
        found = work.table()["rows"]
        return [row["value"] for row in found if (row["case"], row["metric"]) == control]

    assert shown(tmp_path / "run") == [0.5]
    assert shown(done[0] / "run") != [0.5]


def test_only_tables_of_networks_lend_rows(tmp_path):
    with pytest.raises(ValueError, match="expected a recipe of guards or of backdoors"):
        reproduce.opened(recipes.find("scans"), "smoke", tmp_path, lambda command: NOTES, keep=True)


def test_pictures_of_the_triggers_stand_on_the_page(done):
    work = reproduce.opened(done[0] / "toy.toml", "one", done[0] / "run", lambda command: NOTES)
    figures = work.figures()
    assert [*figures] == [*done[1]["figures"]] == ["toy-digits-badnets.png", "toy-digits-lf.png"]
    titles = [axes.get_title() for axes in figures["toy-digits-lf.png"].axes]
    assert titles[:8] == ["clean"] * 4 + ["lf"] * 4
    assert all(title.startswith("change x") for title in titles[8:])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format=2: expected 1"),
        ('name = "badnets", size', 'name = "badnet", size', "did you mean 'badnets'"),
        ('attacks = ["badnets"]', 'attacks = ["badnet"]', "did you mean 'badnets'"),
        ('source = "oracle"\nrepair', 'source = "orakel"\nrepair', "cure.source='orakel'"),
        ('name = "ft", batch', 'name = "ft", bach', "did you mean 'batch'"),
        ("samples = 2", "samples = 0", "samples=0: expected"),
        ("samples = 2", 'samples = 2\nwithout = ["digits ft oracle"]', "repair 'digits ft oracle'"),
        (
            "digits grad-prune spc2",
            "digits grad-prune spc5",
            "repair 'digits grad-prune spc5': expected",
        ),
        ('second = "tuning', 'second = "tunings', "did you mean 'tuning alone oracle'"),
        ("victims = [0, 4]", 'victims = ["x"]', "plant.victims"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_found_before_anything_is_run(tmp_path, old, new, said):
    path = written(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        reproduce.opened(path, "one", tmp_path / "run", lambda command: NOTES)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_another_victim_and_another_attack(capsys):
    assert cli.run(["reproduce", "grad-prune", "--size", "smoke", "--seed", "7"]) == 2
    assert "seed=7: expected one of 0, 1" in capsys.readouterr().err
    assert cli.run(["reproduce", "grad-prune", "--size", "smoke", "--only", "mnist badnets"]) == 2
    assert "attack 'mnist badnets': expected one of" in capsys.readouterr().err
    asked = ["--only", "cifar10 badnets nad"]
    assert cli.run(["reproduce", "grad-prune", "--size", "smoke", *asked]) == 2
    assert "did you mean 'cifar10 badnets nad none'?" in capsys.readouterr().err

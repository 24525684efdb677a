"""A small recipe of guards, through and through."""

import json

import pytest

from bezoar import cli, reproduce
from bezoar.report import tables

NOTES = {"command": "bezoar reproduce toy", "version": "0", "revision": "a", "machine": "2 cores"}

RECIPE = """
format = 1
name = "toy"
paper = "none"
about = ["digits are smaller"]
detected = "pgd:eps=0.2,steps=3"

[published]
"digits cae" = { "greybox:fgsm@0.2" = 0.9 }

[sizes.one]
train = 200
validation = 40
many = 30
some = 12
few = 5
certified = 6
samples = 100
network = { width = 2 }
caps = { epochs = 2 }
instead.cae = { code = 24 }

[[subject]]
data = "digits"
network = "vgg-8conv:width=3"
other = "lenet5"
training = { epochs = 5 }

[[case]]
name = "none"
[[case]]
name = "cae"
guard = { name = "cae", inner = "fgsm:eps=0.2", code = 12, epochs = 9 }
[[case]]
name = "rounded"
guard = { name = "bit-depth", bits = 1 }
known = 7
[[case]]
name = "squeezing"
guard = { name = "squeezing" }
most = 10
known = 3
[[case]]
name = "smoothing"
guard = { name = "smoothing", epochs = 1 }
most = 8
draws = 3

[[measure]]
attack = "fgsm:eps=0.2"
access = ["greybox", "adaptive"]
[[measure]]
attack = "pgd:eps=0.1,steps=3"
access = ["adaptive", "bpda", "transfer"]
images = "some"
[[measure]]
attack = "pgd:eps=0.3,steps=3"
cases = ["none"]
images = "few"
"""


def written(folder):
    path = folder / "toy.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The recipe after its run: the folder, and the results."""
    folder = tmp_path_factory.mktemp("guards")
    recipe = written(folder)
    work = reproduce.opened(recipe, "one", folder / "run", lambda command: NOTES)
    return folder, work()


@pytest.fixture(scope="module")
def cells(done):
    rows = tables.validate(done[1])
    return {(row["case"], row["metric"]): row for row in rows}


def test_every_attacker_meets_every_guard_on_as_many_images_as_asked(cells):
    counts = {
        ("digits none", "clean"): 30,
        ("digits none", "fgsm@0.2"): 30,
        ("digits none", "pgd3@0.1"): 12,
        ("digits none", "transfer:pgd3@0.1"): 12,
        ("digits none", "pgd3@0.3"): 5,
        ("digits cae", "clean"): 30,
        ("digits cae", "greybox:fgsm@0.2"): 30,
        ("digits cae", "fgsm@0.2"): 30,
        ("digits cae", "pgd3@0.1"): 12,
        ("digits cae", "bpda:pgd3@0.1"): 12,
        ("digits cae", "transfer:pgd3@0.1"): 12,
        ("digits rounded", "clean"): 30,
        ("digits rounded", "greybox:fgsm@0.2"): 30,
        ("digits rounded", "fgsm@0.2"): 7,
        ("digits rounded", "pgd3@0.1"): 7,
        ("digits rounded", "transfer:pgd3@0.1"): 12,
        ("digits squeezing", "clean"): 10,
        ("digits squeezing", "greybox:fgsm@0.2"): 10,
        ("digits squeezing", "fgsm@0.2"): 3,
        ("digits squeezing", "pgd3@0.1"): 3,
        ("digits squeezing", "transfer:pgd3@0.1"): 10,
        ("digits squeezing", "false-alarms"): 3,
        ("digits squeezing", "standing:pgd3@0.2"): 3,
        ("digits squeezing", "greybox:standing:pgd3@0.2"): 3,
        ("digits smoothing", "clean"): 30,
        ("digits smoothing", "greybox:fgsm@0.2"): 8,
        ("digits smoothing", "fgsm@0.2"): 30,
        ("digits smoothing", "pgd3@0.1"): 12,
        ("digits smoothing", "transfer:pgd3@0.1"): 8,
        ("digits smoothing", "certified@0.5"): 6,
        ("digits smoothing", "abstained"): 6,
    }
    found = {place: row.get("n") for place, row in cells.items()}
    assert {place: found.get(place) for place in counts} == counts
    timed = {"latency1", "latency64", "ratio:classifier"}
    others = {metric for _, metric in found.keys() - counts.keys()} - timed
    others = {name for name in others if not name.startswith(("latency", "memory:"))}
    others = {metric for metric in others if "caught:" not in metric and "auc:" not in metric}
    assert others == {f"certified@{radius}" for radius in ("0", "0.25", "0.75", "1")}


def test_each_guarded_case_has_its_time_beside_the_classifier_alone(cells):
    for case in ("digits cae", "digits rounded", "digits smoothing"):
        for metric in ("latency1", "latency64", "ratio:classifier"):
            assert cells[case, metric]["value"] > 0
    assert ("digits none", "ratio:classifier") not in cells


def test_what_was_published_and_what_is_smaller_stand_in_the_table(done, cells):
    assert cells["digits cae", "greybox:fgsm@0.2"]["paper"] == 0.9
    counts = "seed 0; train 200; validation 40; many 30; some 12; few 5; certified 6; samples 100"
    said = f"size: {counts}; network width=2; cae with code=24; caps epochs=2"
    assert done[1]["about"] == ["digits are smaller", said]


def test_the_caps_hold_in_every_training(done):
    from bezoar import checkpoints

    folder = done[0] / "run" / "digits"
    assert "code=24" in checkpoints.header(folder / "cae.safetensors").training["guard"]
    assert checkpoints.header(folder / "network.safetensors").fields["width"] == 2
    assert "epochs=2" in checkpoints.header(folder / "cae.safetensors").training["guard"]
    assert "epochs=1" in checkpoints.header(folder / "smoothing.safetensors").training["guard"]
    assert (
        "Training(epochs=2" in checkpoints.header(folder / "network.safetensors").training["method"]
    )


def test_a_run_that_is_done_gives_the_same_table_and_measures_nothing(done, monkeypatch):
    from bezoar import referee

    monkeypatch.setattr(referee.Referee, "unit", None)
    again = reproduce.opened(done[0] / "toy.toml", "one", done[0] / "run", lambda command: NOTES)
    assert json.dumps(again()) == json.dumps(done[1])


def test_a_part_is_worked_on_alone_and_what_is_missing_is_named(tmp_path):
    work = reproduce.opened(
        written(tmp_path), "one", tmp_path / "run", lambda command: NOTES, only=["digits rounded"]
    )
    assert work() is None
    there = sorted(path.name for path in (tmp_path / "run" / "digits").glob("*.safetensors"))
    assert there == ["network.safetensors", "other.safetensors", "rounded.safetensors"]
    assert work.table()["missing"] == [
        "digits none",
        "digits cae",
        "digits squeezing",
        "digits smoothing",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format=2: expected 1"),
        ('attack = "fgsm:eps=0.2"', 'attack = "fgms:eps=0.2"', "did you mean 'fgsm'"),
        ('"greybox", "adaptive"', '"grey", "adaptive"', "'adaptive', 'greybox'"),
        ('cases = ["none"]', 'cases = ["non"]', "case 'non': expected one of"),
        ('network = "vgg-8conv', 'network = "vgg-9conv', "did you mean 'vgg-8conv'"),
        ("width = 2", "widht = 2", "did you mean 'width'"),
        ("instead.cae", "instead.cea", "did you mean 'cae'"),
        ('name = "cae", inner', 'name = "caee", inner', "guard 'caee'"),
        ("code = 12", "codes = 12", "setting 'codes'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_found_before_anything_is_run(tmp_path, old, new, said):
    path = written(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        reproduce.opened(path, "one", tmp_path / "run", lambda command: NOTES)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_another_seed_and_another_case(capsys):
    assert cli.run(["reproduce", "cae", "--size", "smoke", "--seed", "7"]) == 2
    assert "seed=7: expected one of 0" in capsys.readouterr().err
    assert cli.run(["reproduce", "cae", "--size", "smoke", "--only", "mnist caee"]) == 2
    assert "did you mean 'mnist cae'" in capsys.readouterr().err


def test_pictures_of_the_first_purifier_stand_on_the_page(done):
    from bezoar.report import sheet

    work = reproduce.opened(done[0] / "toy.toml", "one", done[0] / "run", lambda command: NOTES)
    (figure,) = work.figures().values()
    titles = [axes.get_title() for axes in figure.axes]
    names = ["original", "original, purified", "fgsm@0.2", "fgsm@0.2, purified"]
    assert [title.partition("\n")[0] for title in titles] == names * (len(titles) // 4)
    assert len(titles) in (8, 12, 16)
    caption = "digits cae: original, attacked, purified"
    assert done[1]["figures"] == {"toy-digits.png": caption}
    assert f"![{caption}](toy-digits.png)" in sheet.page(done[1], "toy")


def test_a_table_that_is_there_lends_the_rows_of_what_is_not_done(done, tmp_path):
    from bezoar.report import sheet

    def opened(**more):
        path, run = done[0] / "toy.toml", tmp_path / "run"
        return reproduce.opened(path, "one", run, lambda command: NOTES, results=tmp_path, **more)

    def stands(results):
        (tmp_path / "toy.json").write_text(json.dumps(results))

    opened(only=["digits rounded"])()
    stands({**done[1], "revision": "earlier"})
    table = opened(keep=True).table()
    others = ["digits cae", "digits none", "digits smoothing", "digits squeezing"]
    assert "missing" not in table
    assert table["kept"] == [{"revision": "earlier", "machine": NOTES["machine"], "cases": others}]
    assert untimed(table) == untimed(done[1])
    text = sheet.page(table, "toy")
    assert f"Kept from revision earlier, on {NOTES['machine']}, where the networks were" in text
    # Kept once more, they still come from where they were measured.
    stands({**table, "revision": "later"})
    assert opened(keep=True).table()["kept"] == table["kept"]


def untimed(table):
    """The values of a table but for those that no two runs share."""
    timed = ("latency", "ratio", "memory")
    rows = [row for row in table["rows"] if not row["metric"].startswith(timed)]
    return {(row["case"], row["metric"]): row["value"] for row in rows}

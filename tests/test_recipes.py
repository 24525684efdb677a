from dataclasses import fields

import pytest

from bezoar import recipes
from bezoar.attacks import ATTACKS, FGSM, PGD, Admix, Attack, UniformNoise, Universal
from bezoar.repairs import Accumulate, AtRandom, Correct, Remove, Repair, Stop, TopLoss
from bezoar.training import Training


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("fgsm", FGSM()),
        (" fgsm : eps = 8/255 ", FGSM(eps=8 / 255)),
        ("pgd:steps=3,eps=0.2,", PGD(steps=3, eps=0.2)),
        ("pgd:random_start=false,step_size=1/100", PGD(random_start=False, step_size=0.01)),
        ("pgd:step_size=none", PGD()),
        ("noise:restarts=10", UniformNoise(restarts=10)),
        ("universal:eps=0.1", Universal(eps=0.1)),
        ("admix:eta=1/5,pool=50", Admix(eta=0.2, pool=50)),
        ({"name": "pgd", "steps": 3, "eps": 1}, PGD(steps=3, eps=1.0)),
        ({"name": "pgd", "eps": "8/255"}, PGD(eps=8 / 255)),
    ],
)
def test_attacks_from_text_and_from_tables(text, made):
    assert recipes.attack(text) == made


def test_defaults_give_way_to_what_is_written_and_to_attacks_without_the_field():
    assert recipes.attack("pgd", eps=0.2, steps=7) == PGD(eps=0.2, steps=7)
    assert recipes.attack("pgd:eps=0.3", eps=0.2, steps=7) == PGD(eps=0.3, steps=7)
    assert recipes.attack("fgsm", eps=0.2, steps=7) == FGSM(eps=0.2)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("correct:twins=accumulate,lam=1/4", Correct(twins=Accumulate(), lam=0.25)),
        ("correct:inner=fgsm", Correct(inner=FGSM())),
        (
            {"name": "remove", "k": 0.04, "rank": "random", "attack": {"name": "fgsm", "eps": 0.2}},
            Remove(k=0.04, rank=AtRandom(), attack=FGSM(eps=0.2)),
        ),
        (
            {"name": "correct", "select": {"name": "top-loss", "share": 0.25}},
            Correct(select=TopLoss(share=0.25)),
        ),
        (
            {"name": "correct", "stop": {"rounds": 3, "judge": {"name": "pgd", "steps": 2}}},
            Correct(stop=Stop(rounds=3, judge=PGD(steps=2))),
        ),
    ],
)
def test_repairs_with_what_is_inside_them(text, made):
    assert recipes.method(Repair, text, "repair") == made


BUDGETS = [
    f"{name}:{field.name}"
    for name, kind in ATTACKS.items()
    for field in fields(kind)
    if field.init and field.name in ("steps", "restarts", "queries")
]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan", "", str(2**31), str(10**30)])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_that_buys_nothing_or_never_ends_is_refused(budget, value):
    with pytest.raises(
        ValueError, match=r"attack.*: (expected an integer|Input should be a valid)"
    ):
        recipes.attack(f"{budget}={value}")


def test_a_table_is_not_changed():
    table = {"name": "pgd", "steps": 3}
    recipes.attack(table)
    assert table == {"name": "pgd", "steps": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "case: expected a name, one of abl, "),
        ({"name": "corect"}, "repair 'corect': .*did you mean 'correct'"),
        ({"name": 3}, "repair '3': expected one of"),
        ({"name": "correct", "lamb": 1}, "case: setting 'lamb': .*did you mean 'lam'"),
        ({"name": "correct", "inner": {"name": "fgms"}}, "attack 'fgms': .*did you mean 'fgsm'"),
        (
            {"name": "correct", "inner": {"name": "fgsm", "ep": 1}},
            "case.inner: setting 'ep': .*did you mean 'eps'",
        ),
        ({"name": "correct", "inner": 3}, "case.inner=3: expected a name or a table with a name"),
        ({"name": "correct", "inner": {}}, "case.inner: expected a name"),
        (
            {"name": "correct", "stop": {"judge": {"name": "pgd", "step": 3}}},
            "case.stop.judge: setting 'step': .*did you mean 'steps'",
        ),
        ({"name": "correct", "stop": {"round": 3}}, "case.stop: setting 'round': .*'rounds'"),
        ({"name": "correct", "stop": 3}, "case.stop=3: expected a table of settings"),
        ({"name": "correct", "batch": 1.5}, "case.batch=1.5: "),
        ({"name": "correct", "batch": True}, "case.batch=True: "),
        ({"name": "correct", "batch": "many"}, "case.batch='many': "),
        ({"name": "correct", "lam": "x"}, "case.lam='x': expected a number"),
        ({"name": "correct", "lam": True}, "case.lam=True: "),
        ({"name": "correct", "lam": None}, "case.lam=None: "),
        ({"name": "correct", "lam": 2}, "case: lam=2.0: expected a number in"),
        ({"name": "correct", "schedule": 3}, "case.schedule=3: "),
        ({"name": "correct", "inner": {"name": "fgsm", "steps": 3}}, "case.inner: setting 'steps'"),
        ({"name": "remove", "index_space": "test"}, "case.index_space='test': "),
    ],
)
def test_what_is_unknown_or_of_another_type_is_refused_at_every_level(settings, message):
    with pytest.raises(ValueError, match=message):
        recipes.method(Repair, settings, "case")


@pytest.mark.parametrize("text", ["pgd:steps", "pgd:=3", "pgd:steps=3;eps=1,x"])
def test_text_that_is_no_list_of_settings(text):
    with pytest.raises(ValueError, match="expected"):
        recipes.attack(text)


@pytest.mark.parametrize("value", ["1/0", "nan", "inf", "-1", "1e400", "0.1.2", "", "1/2/3"])
def test_numbers_that_are_none(value):
    with pytest.raises(ValueError, match="eps="):
        recipes.attack({"name": "fgsm", "eps": value})


def test_a_setting_that_the_method_fixes_itself_is_unknown():
    with pytest.raises(ValueError, match="setting 'steps': expected one of eps"):
        recipes.attack("fgsm:steps=3")


def test_what_is_learnt_from_images_is_no_setting():
    with pytest.raises(ValueError, match="setting 'learnt': expected one of batch, clip, "):
        recipes.attack("universal:learnt=none")


def test_any_frozen_dataclass_can_be_built():
    assert recipes.build(Training, {"epochs": 3}, "training") == Training(epochs=3)
    assert recipes.method(Attack, "fgsm", "x") == FGSM()


class TestFiles:
    def test_toml_is_read_with_its_types(self, tmp_path):
        path = tmp_path / "a.toml"
        path.write_text("a = 1\n[b]\nc = [1.5, 'x']\n")
        assert recipes.read_toml(path) == {"a": 1, "b": {"c": [1.5, "x"]}}

    @pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"a = 1\na = 2"])
    def test_what_is_no_toml(self, tmp_path, content):
        path = tmp_path / "a.toml"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.toml: expected TOML; "):
            recipes.read_toml(path)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a\.toml: no such file; expected a recipe"):
            recipes.read_toml(tmp_path / "a.toml")

    def test_recipes_are_found_by_name(self):
        assert recipes.find("lenet-fgsm") == recipes.folder() / "lenet-fgsm.toml"

    @pytest.mark.parametrize("name", ["lenet-fgms", "../lenet-fgsm", "lenet-fgsm.toml", ""])
    def test_unknown_recipes(self, name):
        with pytest.raises(ValueError, match=r"recipe '.*': expected one of cae, grad-prune"):
            recipes.find(name)


class TestNetwork:
    def test_is_a_name_with_fields(self):
        assert recipes.network("lenet-fig4") == ("lenet-fig4", {})
        assert recipes.network("vgg:width=16,norm=true,dropout=0.3") == (
            "vgg",
            {"width": 16, "norm": True, "dropout": 0.3},
        )
        assert recipes.network("small-net:letter=c") == ("small-net", {"letter": "c"})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("vggg", "network 'vggg': expected one of .*; did you mean 'vgg'"),
            ("vgg:widht=16", "vgg: field 'widht': expected one of .*; did you mean 'width'"),
            ("vgg:width=wide", "vgg.width='wide': "),
            ("vgg:shape=3", "vgg: field 'shape': expected one of depth, "),
            ("lenet-fig4:width=16", "lenet-fig4: field 'width': expected"),
            ("vgg:width", "'vgg:width': expected NAME or NAME:FIELD=VALUE"),
        ],
    )
    def test_refuses_what_is_none(self, text, said):
        with pytest.raises(ValueError, match=said):
            recipes.network(text)

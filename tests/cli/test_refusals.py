"""Bad input: one line that names what was found, exit code 2, and nothing left behind."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bezoar import cli
from bezoar.data import download
from bezoar.data.download import Remote

ATTACK = ("attack", "base.safetensors", "--images", "5", "--attack", "fgsm")
REPAIR = ("repair", "base.safetensors", "--images", "5", "--attack", "fgsm", "--rounds", "1")
TRAIN = ("train", "lenet-fig4", "--epochs", "1", "--out", "new.safetensors")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attak"], "No such command 'attak'. Did you mean 'attack'?"),
        ([*ATTACK, "--image", "3"], "No such option: --image"),
        ([*ATTACK, "--images", "-1"], "'--images'"),
        ([*ATTACK, "--images", "few"], "'--images'"),
        ([*ATTACK, "--seed", "x"], "'--seed'"),
        (["train", "lenet-fig4"], "Missing option '--out'; see bezoar --help"),
        ([*TRAIN, "--epochs", "0"], "'--epochs'"),
        ([*ATTACK, "--eps=-0.1"], "--eps=-0.1: expected a number at least 0"),
        ([*ATTACK, "--eps", "-0.1"], "--eps=-0.1: expected a number at least 0"),
        ([*ATTACK, "--eps", "nan"], "--eps=nan: expected a number at least 0"),
        ([*ATTACK, "--eps", "inf"], "--eps=inf: expected a number at least 0"),
        ([*ATTACK, "--eps", "abc"], "--eps='abc': expected a number such as 0.1 or a fraction"),
        ([*ATTACK, "--eps", "1/0"], "--eps='1/0': expected a number such as 0.1 or a fraction"),
        ([*ATTACK, "--eps", ""], "--eps='': expected a number"),
        ([*ATTACK, "--curve", "0.1,x"], "--curve='x': expected a number"),
        ([*ATTACK, "--curve", "0.1,-1"], "--curve=-1.0: expected a number at least 0"),
        ([*ATTACK, "--floor", "2"], "--floor=2.0: expected a number in [0, 1]"),
        (
            [*ATTACK, "--attack", "pgdd"],
            "attack 'pgdd': expected one of admix, apgd, apgd-l1, apgd-t, ",
        ),
        ([*ATTACK, "--attack", "pgdd"], "did you mean 'pgd'?"),
        ([*ATTACK, "--attack", "pgd:step=3"], "'step': expected one of eps, "),
        ([*ATTACK, "--attack", "pgd:step=3"], "did you mean 'steps'?"),
        ([*ATTACK, "--attack", "pgd:steps"], "'pgd:steps': expected NAME or NAME:FIELD=VALUE"),
        ([*ATTACK, "--attack", "pgd:steps=1.5"], "attack.steps='1.5'"),
        ([*ATTACK, "--attack", "pgd:steps=0"], "steps=0: expected an integer >= 1"),
        ([*ATTACK, "--attack", "square:steps=0"], "attack: steps=0: expected an integer >= 1"),
        ([*ATTACK, "--attack", "square:steps=-1"], "attack: steps=-1: expected an integer >= 1"),
        ([*ATTACK, "--attack", "square:steps=1e3"], "attack.steps='1e3': "),
        ([*ATTACK, "--attack", "square:restarts=0"], "restarts=0: expected an integer >= 1"),
        ([*ATTACK, "--attack", "noise:restarts=0"], "restarts=0: expected an integer >= 1"),
        ([*ATTACK, "--attack", "nes:samples=0"], "samples=0: expected an integer >= 2"),
        ([*ATTACK, "--attack", "autoattack:queries=0"], "queries=0: expected an integer >= 1"),
        ([*ATTACK, "--attack", f"square:steps={10**21}"], "expected an integer below 2**31"),
        ([*ATTACK, "--attack", "pgd:eps=inf"], "eps=inf: expected a number at least 0"),
        ([*ATTACK, "--attack", "deepfool:eps=-1"], "eps=-1.0: expected a number at least 0"),
        ([*ATTACK, "--attack", "fgsm"], "expected one that tables call fgsm@0.1"),
        ([*ATTACK[:4], "--attack", "pgd:eps=0.2"], "of radius --eps 0.1 or without a radius"),
        ([*ATTACK[:4], "--attack", "ddn", "--attack", "fmn:norm=l1"], "or all in another norm"),
        ([*ATTACK[:4], "--curve", "0.1,0.10000000001"], "expected one that tables call fgsm@0.1"),
        ([*ATTACK, "--target", "10"], "target=10: expected a class, 0 to 9"),
        ([*ATTACK, "--target", "-1"], "--target '-1': expected one of 0, 1, "),
        ([*ATTACK, "--target", "randm"], "did you mean 'random'?"),
        ([*ATTACK, "--target", ""], "--target '': expected one of 0, 1, "),
        (
            [*ATTACK, "--attack", "deepfool", "--target", "3"],
            "deepfool50: targeted goal: expected one that leads away from a class",
        ),
        ([*ATTACK, "--attack", "autoattack", "--target", "3"], "autoattack: targeted goal: "),
        ([*ATTACK, "--data", "digit"], "data set 'digit': expected one of "),
        ([*ATTACK, "--data", "digit"], "did you mean 'digits'?"),
        ([*ATTACK, "--data", "folder:none"], "none: no such folder"),
        ([*ATTACK, "--data", "npz:none.npz"], "none.npz: no such file"),
        ([*ATTACK, "--image-size", "32"], "--image-size='32': expected HEIGHTxWIDTH"),
        ([*ATTACK, "--image-size", "²x²"], "--image-size='²x²': expected HEIGHTxWIDTH"),
        ([*ATTACK, "--image-size", "8x8"], "expected a folder:PATH"),
        ([*ATTACK, "--model", "mynet:make"], "expected either MODEL or --model"),
        ([*ATTACK, "--weights", "w.pt"], "--weights=w.pt: expected with --model only"),
        ([*ATTACK, "--surrogate", "none.safetensors"], "none.safetensors: expected a file"),
        (
            [*ATTACK, "--surrogate", "base.safetensors"],
            "--surrogate=base.safetensors: expected other weights than those of the model",
        ),
        (["attack"], "expected either MODEL or --model MODULE:FUNCTION --weights FILE"),
        (["attack", "none.safetensors"], "none.safetensors: expected a file, found none"),
        (["attack", "--model", "nonet:f"], "--weights: expected a file of weights"),
        (["attack", "--model", "nonet:f", "--weights", "w.pt"], "'nonet:f': No module named"),
        (["attack", "--model", "nonet", "--weights", "w.pt"], "expected module:function"),
        (["train", "lenet-fig", "--out", "new.safetensors"], "network 'lenet-fig': expected"),
        (["train", "lenet-fig", "--out", "new.safetensors"], "did you mean 'lenet-fig"),
        ([*TRAIN, "--data", "mnits"], "did you mean 'mnist'?"),
        ([*TRAIN, "--schedule", "cosin"], "did you mean 'cosine'?"),
        ([*TRAIN, "--lr", "nan"], "lr=nan: expected a number at least 0"),
        ([*TRAIN, "--lr", "1e30"], "expected finite; lower the lr"),
        ([*TRAIN, "--out", "new.pt"], "--out=new.pt: expected a file NAME.safetensors"),
        ([*TRAIN, "--out", "base.safetensors/x.safetensors"], "expected a folder that can be"),
        ([*TRAIN, "--out", "base.safetensors"], "base.safetensors holds another model"),
        ([*REPAIR, "--with", "corect"], "repair 'corect': expected one of abl, anp, clp, correct,"),
        ([*REPAIR, "--with", "corect"], "did you mean 'correct'?"),
        ([*REPAIR, "--with", ""], "repair '': expected one of"),
        ([*REPAIR, "--with", "correct:lamb=1"], "did you mean 'lam'?"),
        ([*REPAIR, "--with", "correct:lam=2"], "lam=2.0: expected a number in [0, 1]"),
        ([*REPAIR, "--with", "correct:batch=1.5"], "batch='1.5'"),
        ([*REPAIR, "--with", "correct:twins=onlin"], "did you mean 'online'?"),
        ([*REPAIR, "--with", "correct:stop=3"], "stop='3': expected a table of settings"),
        ([*REPAIR, "--inner", "pdg"], "did you mean 'pgd'?"),
        ([*REPAIR, "--inner", "pgd:stepz=1"], "did you mean 'steps'?"),
        (
            [*REPAIR, "--with", "remove", "--inner", "fgsm"],
            "--inner='fgsm': expected with a repair",
        ),
        (
            [*REPAIR, "--with", "correct:inner=fgsm", "--inner", "pgd"],
            "--inner='pgd': expected once",
        ),
        ([*REPAIR, "--target", "x"], "--target='x': expected a number"),
        ([*REPAIR, "--rounds", "0"], "'--rounds'"),
        (["check", "none"], "none: expected a run folder of bezoar"),
        (["report", "none"], "none/run.json: no such file"),
        (["reproduce", "lenet-fgms"], "recipe 'lenet-fgms': expected one of cae, grad-prune"),
        (["reproduce", "lenet-fgms"], "did you mean 'lenet-fgsm'?"),
        (["reproduce", "lenet-fgsm", "--size", "cpus"], "did you mean 'cpu'?"),
        (["reproduce", "lenet-fgsm", "--only", "lenet-fig"], "did you mean 'lenet-fig"),
    ],
)
def test_words_that_mean_nothing(refused, words, said):
    assert said in refused(*words)


def _nan():
    images = np.zeros((60, 8, 8), np.float32)
    images[3, 2, 1] = np.nan
    return images


@pytest.mark.parametrize("verb", [ATTACK, REPAIR, TRAIN])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": _nan()}, "bad.npz with values in [nan, nan]: expected [0, 1]"),
        (
            {"images": np.full((60, 8, 8), 255.0)},
            "bad.npz with values in [255, 255]: expected [0, 1]; divide by 255",
        ),
        (
            {"labels": np.arange(60) % 11, "class_names": np.array(list("0123456789"))},
            "bad.npz hold class 10: expected 0 to 9",
        ),
        ({"labels": np.arange(60) % 10 - 1}, "bad.npz hold class -1: expected 0 to 8"),
    ],
)
def test_images_or_labels_that_are_none(refused, npz, verb, changes, said):
    assert said in refused(*verb, "--data", npz("bad", **changes))


@pytest.mark.parametrize("verb", [ATTACK, REPAIR])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((60, 9, 9))}, "images of shape (1, 9, 9): expected (1, 8, 8)"),
        ({"images": np.zeros((60, 8, 8, 3))}, "images of shape (3, 8, 8): expected (1, 8, 8)"),
        ({"labels": np.arange(60) % 5}, "expected 5 logits an image"),
    ],
)
def test_a_model_and_data_that_do_not_fit(refused, npz, verb, changes, said):
    found = refused(*verb, "--data", npz("other", **changes), "--out", "run")
    assert found.startswith("bezoar: base.safetensors on npz:other.npz")
    assert said in found


class Payload:
    """Unpickling it makes the file ``ran``."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pkl", "evil.safetensors"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_as_model_is_refused_and_not_run(refused, work, name, protocol):
    (work / name).write_bytes(pickle.dumps(Payload(), protocol=protocol))
    assert f"{name}: expected a safetensors file" in refused("attack", name)
    assert f"{name}: expected a safetensors file" in refused("repair", name)
    assert not (work / "ran").exists()


@pytest.mark.usefixtures("mynet")
def test_an_archive_with_code_is_refused_as_such_and_not_run(refused, work):
    torch.save({"0.weight": Payload()}, work / "evil.pt")
    said = refused("attack", "evil.pt")
    assert "evil.pt: expected a safetensors file; found a pickle or an archive" in said
    said = refused("attack", "--model", "mynet:make", "--weights", "evil.pt")
    assert "evil.pt: expected tensors of torch.save, but it holds code" in said
    assert not (work / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]", b"\xff" * 64],
)
def test_a_safetensors_file_with_a_lying_header(refused, work, content):
    (work / "lie.safetensors").write_bytes(content)
    assert "lie.safetensors: expected a safetensors file" in refused("attack", "lie.safetensors")


def test_a_model_file_that_was_cut_off(refused, work):
    whole = (work / "base.safetensors").read_bytes()
    (work / "cut.safetensors").write_bytes(whole[:-1])
    assert "cut.safetensors: expected a safetensors file" in refused("attack", "cut.safetensors")


@pytest.mark.usefixtures("mynet")
def test_weights_of_another_architecture(refused, work):
    said = refused("attack", "--model", "mynet:make", "--weights", "base.safetensors")
    assert "weights are those of another architecture" in said
    save_file(nn.Linear(3, 2).state_dict(), work / "plain.safetensors")
    assert "expected a model saved by bezoar" in refused("attack", "plain.safetensors")


@pytest.mark.usefixtures("mynet")
def test_a_network_of_ones_own_with_other_classes(refused, work):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 12)).state_dict(), work / "w.pt")
    said = refused("attack", "--model", "mynet:make_twelve", "--weights", "w.pt")
    assert "w.pt on digits/test: classifier output of shape (2, 12): expected 10 logits" in said


class TestOut:
    def test_another_experiment_is_refused_by_setting_and_both_values(self, refused):
        cli.run([*ATTACK, "--out", "run"])
        assert (
            "run holds another run: settings.floor=0.9, not 0.5; choose another --out"
            in refused(*ATTACK, "--floor", "0.5", "--out", "run")
        )
        assert "seed=0, not 1" in refused(*ATTACK, "--seed", "1", "--out", "run")
        assert "run holds another run: " in refused(*REPAIR, "--out", "run")
        assert "run holds another run: " in refused("demo", "--out", "run")

    def test_data_of_the_same_name_with_another_content(self, refused, npz):
        cli.run([*ATTACK, "--data", npz("mine"), "--out", "run"])
        name = npz("mine", labels=np.arange(60)[::-1] % 10)
        assert "data.hash=" in refused(*ATTACK, "--data", name, "--out", "run")

    @pytest.mark.parametrize("verb", [ATTACK, REPAIR, ("demo",)])
    def test_what_is_no_run_folder_is_left_alone(self, refused, work, verb):
        (work / "thesis").mkdir()
        (work / "thesis" / "one.tex").write_text("chapter 1")
        assert "thesis: expected a new folder" in refused(*verb, "--out", "thesis")
        assert "thesis/one.tex: expected a new" in refused(*verb, "--out", "thesis/one.tex")
        assert "one.tex/run: Not a directory" in refused(*verb, "--out", "thesis/one.tex/run")

    def test_a_model_of_the_same_name_from_other_data(self, refused, npz):
        cli.run([*TRAIN, "--data", npz("mine")])
        name = npz("mine", labels=np.arange(60)[::-1] % 10)
        assert "new.safetensors holds another model" in refused(*TRAIN, "--data", name)


def _idx(magic: int, content: bytes, *sizes: int) -> bytes:
    return gzip.compress(struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + content, mtime=0)


class TestMNIST:
    """Files of a named set under ``root/mnist``."""

    @pytest.fixture
    def files(self, work):
        folder = work / "root" / "mnist"
        folder.mkdir(parents=True)
        for name in ("train", "t10k"):
            images = _idx(0x803, bytes(4 * 784), 4, 28, 28)
            (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(images)
            (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(_idx(0x801, bytes(4), 4))
        return folder

    WORDS = (*TRAIN, "--data", "mnist", "--data-root", "root")

    def test_missing(self, refused, monkeypatch):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        key = "mnist/train-images-idx3-ubyte.gz"
        # Port 9 of this machine: nobody listens.
        monkeypatch.setattr(download, "REMOTES", {key: Remote("http://127.0.0.1:9/x", "0" * 32)})
        assert f"root/{key}: no such file" in refused(*self.WORDS)

    def test_wrong_checksum(self, refused, files):
        said = refused(*self.WORDS)
        assert "train-images-idx3-ubyte.gz: " in said
        assert "checksum" in said

    @pytest.mark.parametrize(
        "content",
        [
            _idx(0x803, bytes(4 * 784), 4, 28, 28)[:-20],
            _idx(0x803, bytes(3 * 784), 4, 28, 28),
            _idx(0x802, bytes(4 * 784), 4, 28, 28),
            _idx(0x803, b"", 2**31, 2**31, 2**31),
            b"",
        ],
        ids=["cut off", "too short", "wrong magic", "lying header", "empty"],
    )
    def test_damaged(self, refused, files, content):
        (files / "train-images-idx3-ubyte.gz").write_bytes(content)
        assert "root/mnist/train-images-idx3-ubyte.gz: " in refused(*self.WORDS)


def test_bfloat16_where_it_is_slow(work, capsys, monkeypatch):
    monkeypatch.setattr("bezoar.cli.subject.lowering", lambda model, x: 23.6)
    assert cli.run([*ATTACK, "--low-precision", "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert "--low-precision: passes in bfloat16 take 23.6 times as long as in float32" in said
    assert not (work / "run").exists()

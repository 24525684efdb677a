import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bezoar import checkpoints, tensorfiles, trees
from bezoar.classifier import weights_hash
from bezoar.models import MODELS, create
from bezoar.seeds import generator

CLASSES = ("cat", "dog", "eel")
SHAPE = (1, 8, 8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def model():
    return create("lenet-fig4", shape=SHAPE, classes=3, seed=0, mean=[0.1], std=[0.3])


def small():
    """A user's own network: 4 pixels to 2 logits."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.data = torch.arange(8.0).reshape(2, 4)
    net[1].bias.data = torch.tensor([0.5, -0.5])
    return net


def written(path, model, **changes):
    """A model file whose header says something else in some places."""
    checkpoints.save(path, model, classes=CLASSES)
    with tensorfiles.opened(path) as file:
        head = json.loads(file.metadata()["bezoar"])
        tensors = {name: value.clone() for name, value in tensorfiles.read(file).items()}
    save_file(tensors, path, {"bezoar": json.dumps(head | changes)})
    return path


def refusal(path, *, load=checkpoints.load):
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the text
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


NAMES = ["nan", "inf", "object"]  # str of an object would hold an address


class TestModel:
    @pytest.mark.parametrize("kind", sorted(MODELS))
    def test_comes_back_as_it_was(self, path, kind):
        model = create(kind, shape=(3, 9, 11), classes=3, seed=1, mean=[0.1, 0.2, 0.3])
        training = {"epochs": 3, "lr": 1e-3, "rows": [{"loss": 0.1 + 0.2}], "note": None}
        checkpoints.save(path, model, classes=CLASSES, training=training)
        loaded = checkpoints.load(path)
        assert type(loaded.model) is MODELS[kind]
        assert loaded.kind == kind
        assert loaded.fields == model.fields
        assert loaded.classes == CLASSES
        assert loaded.shape == (3, 9, 11)
        assert loaded.training == training
        assert weights_hash(loaded.model) == weights_hash(model)

    def test_is_ready_to_use(self, path, model):
        checkpoints.save(path, model.train(), classes=CLASSES)
        loaded = checkpoints.load(path).model
        x = torch.rand(2, *SHAPE, generator=generator(0, "tests", "images"))
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert torch.equal(loaded(x), model.eval()(x))

    def test_leaves_the_global_random_state_alone(self, path, model):
        checkpoints.save(path, model, classes=CLASSES)
        state = torch.get_rng_state()
        checkpoints.load(path)
        assert torch.equal(torch.get_rng_state(), state)

    def test_does_not_change_when_its_file_is_overwritten(self, path, model):
        checkpoints.save(path, model, classes=CLASSES)
        loaded = checkpoints.load(path).model
        path.write_bytes(bytes(path.stat().st_size))
        assert weights_hash(loaded) == weights_hash(model)

    def test_keeps_double_precision(self, path, model):
        checkpoints.save(path, model.double(), classes=CLASSES)
        loaded = checkpoints.load(path).model
        assert loaded(torch.zeros(1, *SHAPE, dtype=torch.float64)).dtype == torch.float64
        assert weights_hash(loaded) == weights_hash(model)

    def test_keeps_weights_that_lie_scattered_in_memory(self, path, model):
        model.hidden1.weight.data = model.hidden1.weight.data.t().contiguous().t()
        checkpoints.save(path, model.to(memory_format=torch.channels_last), classes=CLASSES)
        assert weights_hash(checkpoints.load(path).model) == weights_hash(model)

    def test_saved_twice_gives_the_same_bytes(self, path, tmp_path, model):
        again = tmp_path / "again.safetensors"
        for place in (path, again):
            checkpoints.save(place, model, classes=CLASSES, training={"b": 1, "a": 2})
        assert path.read_bytes() == again.read_bytes()

    def test_its_header_can_be_read_alone(self, path, model):
        checkpoints.save(path, model, classes=CLASSES, training={"epochs": 3})
        head = checkpoints.header(path)
        assert (head.kind, head.classes, head.shape) == ("lenet-fig4", CLASSES, SHAPE)
        assert head.training == {"epochs": 3}

    def test_is_not_saved_with_too_few_names_of_classes(self, path, model):
        with pytest.raises(ValueError, match="2 names of classes: expected 3, one a logit"):
            checkpoints.save(path, model, classes=CLASSES[:2])
        assert not path.exists()

    def test_is_not_saved_with_weights_that_are_not_finite(self, path, model):
        model.output.bias.data[0] = float("nan")
        with pytest.raises(ValueError, match=r"output\.bias holds NaN or infinity"):
            checkpoints.save(path, model, classes=CLASSES)
        assert not path.exists()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object()], ids=NAMES)
    def test_is_not_saved_with_a_record_that_json_cannot_hold(self, path, model, value):
        with pytest.raises(ValueError, match="expected finite JSON values"):
            checkpoints.save(path, model, classes=CLASSES, training={"loss": value})
        assert not path.exists()


class TestUsersModel:
    def test_is_stored_and_fills_a_fresh_network(self, path):
        checkpoints.save(path, small(), classes=("a", "b"), shape=(1, 2, 2))
        fresh = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        checkpoints.load_weights(path, fresh)
        assert checkpoints.header(path).kind == "user"
        assert weights_hash(fresh) == weights_hash(small())

    def test_cannot_be_built_from_its_file(self, path):
        checkpoints.save(path, small(), classes=("a", "b"), shape=(1, 2, 2))
        assert "give its factory, --model module:function" in refusal(path)

    def test_needs_the_shape_of_its_images(self, path):
        with pytest.raises(ValueError, match="shape=None: expected"):
            checkpoints.save(path, small(), classes=("a", "b"))


class TestRefusals:
    def test_a_missing_file(self, path):
        with pytest.raises(FileNotFoundError, match=f"{path}: expected a file, found none"):
            checkpoints.load(path)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
    def test_a_truncated_file(self, path, model, share):
        checkpoints.save(path, model, classes=CLASSES)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        assert refusal(path).startswith("expected a safetensors file; ")

    @pytest.mark.parametrize(
        "data",
        [b"PK\x03\x04 some archive", b"\x80\x02}q\x00.", b"<html></html>", b"\xff" * 64],
    )
    def test_a_file_of_another_format(self, path, data):
        path.write_bytes(data)
        assert refusal(path).startswith("expected a safetensors file; ")

    def test_a_tensor_said_to_be_larger_than_the_file(self, path):
        head = {"w": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}
        text = json.dumps(head).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
        assert refusal(path).startswith("expected a safetensors file; ")

    def test_plain_weights_without_a_header(self, path, model):
        save_file(model.state_dict(), path)
        assert "found no header" in refusal(path)

    @pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"format": 1}', "[" * 100_000])
    def test_a_header_that_is_none(self, path, model, text):
        save_file(model.state_dict(), path, {"bezoar": text})
        assert refusal(path).startswith("header")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"format": 2}, "header.format: Input should be 1, found 2; a newer bezoar"),
            ({"kind": "lenet-fig5"}, "model 'lenet-fig5': expected one of .* did you mean"),
            ({"kind": 3}, "header.kind: "),
            ({"more": 3}, "header.more: "),
            ({"fields": []}, "header.fields: "),
            ({"fields": {"sahpe": [1, 8, 8]}}, "unexpected keyword argument 'sahpe'"),
            ({"fields": {"shape": [1, 8, 8], "classes": 3, "mean": 5}}, "header: "),
            ({"fields": {"shape": 5, "classes": 3}}, "header: "),
            ({"fields": {"shape": [1, 8, 8], "classes": 10**12}}, "classes=1000000000000"),
            ({"fields": {"shape": [1, 10**12, 8], "classes": 3}}, "integers from 1 to 16384"),
            ({"children": {"net": {}}}, r"children.net.kind: Field required"),
            (
                {"children": {"net": {"kind": "lenet-fig4", "fields": {}}}},
                r"children \['net'\] of lenet-fig4: expected none",
            ),
            ({"classes": ["cat", "dog"]}, "2 names of classes: expected 3, one a logit"),
            ({"classes": "cat"}, "header.classes: "),
            ({"classes": [1, 2, 3]}, "header.classes.0: "),
            ({"shape": [1, 8]}, "header.shape"),
            ({"shape": [1, 8, 8.5]}, "header.shape.2: "),
            ({"shape": [1, 8, 10**40]}, "shape"),
            ({"shape": [1, 28, 28]}, r"shape=\(1, 28, 28\): expected \(1, 8, 8\)"),
        ],
        ids=str,
    )
    def test_a_header_that_lies(self, path, model, changes, reason):
        assert re.search(reason, refusal(written(path, model, **changes)))

    def test_fields_that_promise_more_than_the_file_holds_cost_no_memory(self, path, model):
        side, classes = 16384, 1048576  # the hidden layers alone would take gigabytes
        fields = {"shape": [1, side, side], "classes": classes}
        names = ["c"] * classes
        written(path, model, fields=fields, shape=fields["shape"], classes=names)
        assert "the size of lenet-fig4 with the header's fields" in refusal(path)

    def test_weights_of_another_architecture(self, path, model):
        text = refusal(written(path, model, kind="lenet5"))
        assert "missing (c1.bias, c1.weight, c3.bias, ...) and 8 unexpected (conv1.bias" in text

    def test_a_mean_other_than_the_header_shows(self, path, model):
        fields = model.fields | {"mean": [0.5]}
        assert "normalise.mean is [0.1" in refusal(written(path, model, fields=fields))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, path, model, value):
        written(path, model)
        with tensorfiles.opened(path) as file:
            tensors, head = tensorfiles.read(file), file.metadata()
        tensors["conv2.bias"][3] = value
        save_file(tensors, path, head)
        assert "conv2.bias holds NaN or infinity" in refusal(path)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.float16])
    def test_weights_of_another_type(self, path, model, dtype):
        written(path, model)
        with tensorfiles.opened(path) as file:
            tensors, head = tensorfiles.read(file), file.metadata()
        tensors["conv2.bias"] = tensors["conv2.bias"].to(dtype)
        save_file(tensors, path, head)
        assert str(dtype) in refusal(path)

    def test_a_training_state_is_not_a_model(self, path):
        trees.save(path, {"epoch": 1})
        assert refusal(path).startswith("header")


class Payload:
    """What runs when it is unpickled: it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def zipped(data, protocol):
    stream = io.BytesIO()
    torch.save(data, stream, pickle_protocol=protocol)
    return stream.getvalue()


def legacy(data, protocol):
    stream = io.BytesIO()
    torch.save(data, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def load_small(path):
    """Fill a network that must stay as it is when the file is refused."""
    net = small()
    try:
        checkpoints.load_weights(path, net)
    finally:
        assert weights_hash(net) == weights_hash(small())


class TestLoadWeights:
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
    @pytest.mark.parametrize("form", [zipped, legacy])
    def test_reads_a_state_dict(self, tmp_path, suffix, form):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(form({name: value + 1 for name, value in small().state_dict().items()}, 2))
        net = small()
        checkpoints.load_weights(path, net)
        assert torch.equal(net[1].weight, torch.arange(8.0).reshape(2, 4) + 1)

    @pytest.mark.parametrize(
        "content",
        [
            {"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2)},
            {"module.1.weight": torch.ones(2, 4), "module.1.bias": torch.ones(2)},
            {"state_dict": {"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2)}, "epoch": 3},
            {"state_dict": {"module.1.weight": torch.ones(2, 4), "module.1.bias": torch.ones(2)}},
            {"1.weight": torch.ones(2, 4).half(), "1.bias": torch.ones(2).double()},
        ],
        ids=["bare", "data-parallel", "wrapped", "both", "other precision"],
    )
    def test_reads_what_people_save(self, tmp_path, content):
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        net = small()
        checkpoints.load_weights(path, net)
        assert (net[1].weight == 1).all()
        assert net[1].weight.dtype == torch.float32

    def test_reads_plain_safetensors(self, tmp_path):
        path = tmp_path / "weights.safetensors"
        save_file({"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2)}, path)
        net = small()
        checkpoints.load_weights(path, net)
        assert (net[1].weight == 1).all()

    def test_a_part_that_is_itself_named_module_keeps_its_name(self, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save({"module.weight": torch.ones(2, 4), "module.bias": torch.ones(2)}, path)
        net = nn.ModuleDict({"module": nn.Linear(4, 2)})
        checkpoints.load_weights(path, net)
        assert (net["module"].weight == 1).all()

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("form", [zipped, legacy, pickle.dumps])
    @pytest.mark.parametrize("suffix", [".pt", ".bin"])
    def test_refuses_a_file_with_code_and_does_not_run_it(self, tmp_path, form, protocol, suffix):
        trace, path = tmp_path / "it ran", tmp_path / f"weights{suffix}"
        path.write_bytes(form({"1.weight": Payload(trace)}, protocol))
        text = refusal(path, load=load_small)
        assert not trace.exists()
        assert "holds code or other objects, none of which was run" in text
        assert "save it as safetensors or as a plain state_dict" in text

    def test_the_code_of_that_test_does_run_where_pickles_are_trusted(self, tmp_path):
        trace = tmp_path / "it ran"
        pickle.loads(pickle.dumps(Payload(trace)))
        assert trace.exists()

    def test_refuses_a_whole_pickled_network(self, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save(small(), path)
        assert "holds code or other objects" in refusal(path, load=load_small)

    def test_refuses_a_torchscript_archive(self, tmp_path):
        path = tmp_path / "weights.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", b"")
            archive.writestr("net/constants.pkl", b"")
        assert "TorchScript" in refusal(path, load=load_small)

    def test_refuses_an_archive_of_something_else(self, tmp_path):
        path = tmp_path / "weights.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("word/document.xml", b"")
        assert "no data.pkl" in refusal(path, load=load_small)

    def test_refuses_an_archive_that_unfolds(self, tmp_path):
        path = tmp_path / "weights.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("net/data.pkl", bytes(10_000))
        assert "compressed archive" in refusal(path, load=load_small)

    @pytest.mark.parametrize("form", [zipped, legacy])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_refuses_a_truncated_file(self, tmp_path, form, share):
        path = tmp_path / "weights.pt"
        data = form(small().state_dict(), 2)
        path.write_bytes(data[: int(share * len(data))])
        assert "save it as safetensors or as a plain state_dict" in refusal(path, load=load_small)

    def test_refuses_a_file_that_is_no_pickle(self, tmp_path):
        path = tmp_path / "weights.pt"
        path.write_bytes(b"<html>not found</html>")
        assert "it is no such file" in refusal(path, load=load_small)

    def test_refuses_another_suffix(self, tmp_path):
        path = tmp_path / "weights.ckpt"
        path.write_bytes(b"")
        assert "expected a file .safetensors, .pt" in refusal(path, load=load_small)

    @pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
    def test_a_missing_file(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match="expected a file, found none"):
            checkpoints.load_weights(tmp_path / name, small())

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (torch.ones(3), "holds a Tensor: expected a state_dict"),
            ([torch.ones(3)], "holds a list: expected a state_dict"),
            ({"1.weight": 3}, "1.weight is a int: expected names and tensors only"),
            ({1: torch.ones(3)}, "expected names and tensors only"),
            (
                {"1.weight": torch.ones(2, 4)},
                r"1 missing \(1.bias\): expected those of the network",
            ),
            (
                {"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2), "2.bias": torch.ones(2)},
                r"1 unexpected \(2.bias\)",
            ),
            (
                {"1.weight": torch.ones(4, 2), "1.bias": torch.ones(2)},
                r"1.weight of shape \(4, 2\): expected \(2, 4\)",
            ),
            (
                # Four bytes that say that they are four terabytes.
                {"1.weight": torch.ones(1).expand(10**12), "1.bias": torch.ones(2)},
                r"1.weight of shape \(1000000000000,\): expected \(2, 4\)",
            ),
            (
                {"1.weight": torch.ones(2, 4).long(), "1.bias": torch.ones(2)},
                "1.weight of torch.int64: expected torch.float32",
            ),
            (
                {"1.weight": torch.full((2, 4), torch.nan), "1.bias": torch.ones(2)},
                "1.weight holds NaN",
            ),
            (
                {"1.weight": torch.ones(2, 4).to_sparse(), "1.bias": torch.ones(2)},
                "1.weight is sparse",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_refuses_what_does_not_fit(self, tmp_path, content, reason):
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        assert re.search(reason, refusal(path, load=load_small))


class TestWriting:
    def test_an_interrupt_leaves_the_old_file_and_nothing_else(self, path, model, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        checkpoints.save(path, model, classes=CLASSES)
        before = path.read_bytes()
        monkeypatch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(path, model, classes=CLASSES, training={"epochs": 2})
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

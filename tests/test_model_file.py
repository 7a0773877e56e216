"""Model files: whatever is wrong with one, the answer is one line that names it."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from fastrecon import load
from fastrecon.models import BlockSensingModel
from fastrecon.models import file as model_file
from fastrecon.models.file import Header

META = {"format": 2, "method": "lda", "problem": "block-cs"}


def raw(header, data=b"", length=None):
    """A safetensors file with this header, of its length or of another that it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(end=8, kind="F32", shape=(2,)):
    return {"dtype": kind, "shape": shape, "data_offsets": [0, end]}


def described(meta, **tensors):
    text = meta if isinstance(meta, str) else json.dumps(meta)
    return raw({"__metadata__": {"fastrecon": text}, **tensors}, bytes(8) if tensors else b"")


FOREIGN = "a model file, got a damaged or foreign one"
INCOMPLETE = "a complete model, got a damaged file"
DAMAGES = {
    "header longer than memory": (raw({}, length=2**63), FOREIGN),
    "header longer than the file": (raw({}, length=10**6), FOREIGN),
    "no header": (raw(b"", length=0), FOREIGN),
    "no length": (b"\0\0\0", FOREIGN),
    "header is no JSON": (raw(b"{{{{"), FOREIGN),
    "header is no object": (raw([1, 2]), FOREIGN),
    "header is no text": (raw(b"\xff\xfe{}"), FOREIGN),
    "metadata is no object": (raw({"__metadata__": [1]}), FOREIGN),
    "metadata is no text": (raw({"__metadata__": {"fastrecon": {"format": 1}}}), FOREIGN),
    "trailing bytes": (described(META, q=tensor()) + b"more", FOREIGN),
    "missing bytes": (described(META, q=tensor())[:-1], FOREIGN),
    "offsets beyond": (described(META, q=tensor(end=80, shape=(20,))), FOREIGN),
    "size and shape differ": (described(META, q=tensor(shape=(3,))), FOREIGN),
    "unknown type": (described(META, q=tensor(kind="Q7")), FOREIGN),
    "of another program": (raw({"__metadata__": {"pt": "x"}}), "a safetensors file of another program"),
    "settings are no JSON": (described("{nonsense"), "expected JSON as metadata"),
    "settings are deep": (described("[" * 10**5 + "]" * 10**5), "expected JSON as metadata"),
    "settings are a list": (described([1]), "expected a JSON object as metadata, got list"),
    "settings are null": (described("null"), "expected a JSON object as metadata, got NoneType"),
    "settings are empty": (described({}), "expected format 1 or 2, got None"),
    "no method": (described({"format": 1}), "expected the name of a method, got None"),
    "method is a list": (described({"format": 1, "method": ["lda"]}), "expected the name of a method"),
    "unknown method": (described({"format": 2, "method": "x"}), "method: expected one of "),
    "hyperparameters are a list": (
        described(META | {"hyperparameters": []}),
        "hyperparameters: expected a JSON object",
    ),
    "settings of format 1 are a list": (
        described({"format": 1, "method": "sgp-step", "settings": [1]}),
        "hyperparameters: expected a JSON object",
    ),
    "problem is a number": (described(META | {"problem": 3}), "problem: expected a text, got int"),
    "task of format 1 is a list": (described({"format": 1, "method": "lda", "task": []}), "problem: expected a text"),
    "format 1 without anything": (described({"format": 1, "method": "lda"}), INCOMPLETE),
    "no tensors": (described(META), INCOMPLETE),
    "q is no matrix": (described(META, q=tensor()), INCOMPLETE),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line(tmp_path, name):
    data, words = DAMAGES[name]
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.safetensors: (.+: )?expected ") as e:
        load(tmp_path / "m.safetensors")
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "changes", [{"block": -1}, {"block": "five"}, {"layers": []}, {"phases": None}, {"channels": 0}]
)
def test_settings_that_do_not_fit(tmp_path, changes):
    from fastrecon.models import BlockSensingModel
    from fastrecon.operators import BlockSensing, random_phi
    from fastrecon.solvers import LDA

    operator = BlockSensing(random_phi(4, 9, 0), 3)
    model = BlockSensingModel(operator, LDA(operator, phases=1, channels=2), torch.zeros(9, 4), {"phi_seed": 0})
    model.save(tmp_path / "good.safetensors")
    assert isinstance(load(tmp_path / "good.safetensors"), BlockSensingModel)
    head, tensors = model_file.read(tmp_path / "good.safetensors")
    damaged = dataclasses.replace(head, hyperparameters=head.hyperparameters | changes)
    model_file.write(tmp_path / "m.safetensors", damaged, tensors)
    with pytest.raises(ValueError, match=r"m\.safetensors: expected a complete model") as e:
        load(tmp_path / "m.safetensors")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_of_nan_is_none(tmp_path, value):
    model_file.write(tmp_path / "m.safetensors", Header("lda"), {"q": torch.tensor([1.0, value])})
    with pytest.raises(ValueError, match=r"m\.safetensors: q: expected finite numbers, got NaN or Inf"):
        load(tmp_path / "m.safetensors")


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / "m\udcff\n.safetensors"
    model_file.write(path, Header("lda", name="x"), {"q": torch.tensor([1.0, 2.0])})
    head, tensors = model_file.read(path)
    assert head == Header("lda", name="x")
    assert tensors["q"].tolist() == [1, 2]
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"m\\xff\\n\.safetensors: expected a model file"):
        load(path)


def as_format_1(path, flat, **meta):
    """Rewrites a model file as it was laid out before."""
    head, tensors = model_file.read(path)
    meta |= head.operator | {"name": head.name, "training": head.training, "format": 1, "method": head.method}
    meta |= head.hyperparameters if flat is None else {flat: head.hyperparameters}
    path.write_bytes(to_bytes(tensors, {"fastrecon": json.dumps(meta)}))


@pytest.mark.parametrize(
    ("name", "flat", "task"),
    [
        ("lda-cs-10", None, "block-cs"),
        ("dladmm-saltpepper", "hyperparameters", "salt-and-pepper"),
        ("sgp-diag-fourier", "settings", "fourier"),
    ],
)
def test_both_formats_give_one_model(tmp_path, name, flat, task):
    path, shipped = tmp_path / "m.safetensors", load(name)
    if isinstance(shipped, BlockSensingModel):
        shipped.solver.minimiser = None  # of which format 1 did not know
    shipped.save(path)
    new = load(path)
    as_format_1(path, flat, task=task)
    old = load(path)
    for model in (new, old):
        assert (type(model), model.method, model.problem) == (type(shipped), shipped.method, shipped.problem)
        assert model.meta == shipped.meta
        assert model.hyperparameters() == shipped.hyperparameters()
        assert model.card() == shipped.card()
        for key, tensor in shipped.state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor), key

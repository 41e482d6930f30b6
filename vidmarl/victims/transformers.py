"""Video classifiers of Hugging Face `transformers` (`pip install "vidmarl[transformers]"`): some by
name, every other one by its repository, "hf:ORG/NAME", or by the path of a folder.

A folder is what `save_pretrained` writes: `config.json`, `preprocessor_config.json` and
`model.safetensors`. How clips are cut and normalised, and the names of the classes, are read from
it. Nothing is unpickled, and no code from a repository is ever run.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.paths import data_root
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, SettingsError
from vidmarl.utils.randomness import seeded
from vidmarl.victims.cards import Card, find_snapshot, hub_folder
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import RANDOM, Weights, find_given, read, title

HUB = "hf:"
"""How the name of a repository of Hugging Face begins."""
CONFIG, SHARDS = "config.json", "model.safetensors.index.json"
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
"""Files that may say how clips are prepared, the newer kinds first."""


class Named(NamedTuple):
    """A checkpoint with a name of its own; the clips are those that it was trained on."""

    repository: str
    config: str
    frames: int
    short_side: int
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    parameters: int
    licence: str
    description: str
    paper: str


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMED = {
    "timesformer_base": Named(
        "facebook/timesformer-base-finetuned-k400",
        "TimesformerConfig",
        8,
        224,
        0.45,
        0.225,
        121_566_352,
        "CC-BY-NC-4.0",
        "TimeSformer, attention over time, then over space",
        "Bertasius et al., ICML 2021",
    ),
    "videomae_base": Named(
        "MCG-NJU/videomae-base-finetuned-kinetics",
        "VideoMAEConfig",
        16,
        224,
        *IMAGENET,
        86_534_800,
        "CC-BY-NC-4.0",
        "VideoMAE, a vision transformer taught by masking",
        "Tong et al., NeurIPS 2022",
    ),
    "vivit_base": Named(
        "google/vivit-b-16x2-kinetics400",
        "VivitConfig",
        32,
        256,
        0.5,
        0.5,
        88_954_000,
        "MIT",
        "ViViT, a vision transformer of tubelets",
        "Arnab et al., ICCV 2021",
    ),
}
"""Where a repository says how clips are prepared, that wins."""
SIZE, CLASSES = 224, 400
"""Height and width of their clips in px, and how many classes they know: those of Kinetics-400."""


class Classifier(nn.Module):
    """The scores of a video classifier of `transformers`.

    Args:
        network: takes normalised clips by the name of its main input.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b k"]:
        name: Any = self.network.main_input_name
        scores: Tensor = self.network(**{name: clips}).logits
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return list(NAMED)


def card(name: str) -> Card:
    """What is known of it."""
    known = NAMED[name]
    return Card(
        description=known.description,
        paper=known.paper,
        classes="Kinetics-400",
        parameters=known.parameters,
        repository=known.repository,
        licence=known.licence,
    )


def is_checkpoint(name: str) -> bool:
    """Whether a name is that of a repository, or of a folder with a model."""
    return name.startswith(HUB) or (name != "" and (Path(name).expanduser() / CONFIG).is_file())


def default_spec(name: str) -> ClipSpec:
    """How the clips of a named one are made unless its files say otherwise."""
    known = NAMED[name]
    kind = known.config.removesuffix("Config").lower()
    return _spec(known.frames, (SIZE, SIZE), known.short_side, stride_of(kind, known.frames))


def stride_of(kind: str, frames: int) -> int:
    """Native frames for each frame of a clip, which no checkpoint states: as the papers train them.

    Args:
        kind: the `model_type` of a config.
        frames: of a clip.
    """
    if kind == "timesformer":  # 8 x 32, 16 x 16, 96 x 4
        return max(4, 256 // frames)
    return 2 if kind == "vivit" else 4


def load(
    name: str,
    weights: str | Path | None,
    *,
    spec: Mapping[str, Any] | ClipSpec | None = None,
    device: Any = None,
    batch_size: int | None = None,
) -> Victim:
    """A video classifier of `transformers`; see `vidmarl.load_victim`.

    Args:
        name: one of `names()`, "hf:ORG/NAME", or the path of a folder.
        weights: "random" for an untrained network; the path of another state dict for the same
            network, or of a folder, in the place of those that belong to the name.
        spec: changes of its own spec, or the spec that takes its place.
        device: see `Victim`.
        batch_size: see `Victim`.

    Raises:
        SettingsError: `transformers` is not installed.
        CheckpointError: its files are not here and cannot be downloaded, or are not those of a
            video classifier with all its weights.
        ValueError: the network cannot take clips of that spec.
    """
    doing = f"Loading the victim {name!r}"
    library = _library(doing)
    file = None if weights in (None, RANDOM) else Path(str(weights)).expanduser()
    if file is not None and file.is_dir():
        folder, file = file, None
    elif name in NAMED and weights is not None:
        folder = None  # the config of its kind is enough
    else:
        folder = find_folder(name, doing, weights=weights is None)
    config = _named_config(library, name) if folder is None else _read_config(library, folder, doing)
    usual, normalisation = _preparation(config, folder, name)
    spec = usual.changed(spec)
    _check_clips(config, spec, doing)
    kind = library.AutoModelForVideoClassification._model_mapping[type(config)]
    labels: Any = None if folder is None else _labels(config)
    found = None
    with seeded(0), _quiet(library):
        if weights == RANDOM:
            network, labels = kind(config), None
        else:
            found = read(find_given(name, file)) if file is not None else _read_folder(folder, doing)
            labels = found.class_names or labels
            config.num_labels = len(found.state.get("classifier.bias", range(config.num_labels)))
            network = _filled(kind, config, found, doing)
    called = title(name, found)
    return Victim(
        Classifier(network),
        **normalisation,
        spec=spec,
        layout="b t c h w",
        labels=labels if labels is not None and len(labels) == config.num_labels else None,
        name=called.removeprefix(HUB) if called.startswith(HUB) else Path(called).name,
        device=device,
        batch_size=batch_size,
    )


def find_folder(name: str, doing: str, weights: bool = True) -> Path:
    """The folder of the files of a checkpoint, downloaded into the cache of Hugging Face if it is
    nowhere here.

    Args:
        name: one of `names()`, "hf:ORG/NAME", or the path of a folder.
        doing: opens the message of an error.
        weights: whether they are needed, beside the config.

    Raises:
        SettingsError: it is no name of a repository.
        CheckpointError: it cannot be had; the message says which files to put where.
    """
    if name not in NAMED and not name.startswith(HUB):
        return Path(name).expanduser()
    repository = NAMED[name].repository if name in NAMED else name.removeprefix(HUB)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise SettingsError(f"{doing}: expected {HUB}ORG/NAME, such as {HUB}{NAMED['videomae_base'].repository}.")
    own = data_root() / "weights" / name.removeprefix(HUB)
    found = own if (own / CONFIG).is_file() else find_snapshot(repository)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, *PROCESSORS, *(["*.safetensors", SHARDS] if weights else [])]
    try:
        return Path(snapshot_download(repository, cache_dir=hub_folder(), allow_patterns=wanted))
    except Exception as error:  # of many types: no network, no such repository, no right to read it
        raise CheckpointError(
            f"{doing}: its files are not here, and cannot be downloaded ({type(error).__name__}: {_first_line(error)})."
            "\nTry again later, or get them by other means and put them there:\n"
            f"  address  https://huggingface.co/{repository}/tree/main\n"
            f"  folder   {own}\n"
            f"  files    {CONFIG}, preprocessor_config.json, model.safetensors\n"
            "Or pass weights='random' for an untrained network."
        ) from error


def _library(doing: str) -> ModuleType:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{doing}: the library transformers is not installed. pip install 'vidmarl[transformers]'."
        ) from error
    return transformers


def _named_config(library: ModuleType, name: str) -> Any:
    """The config of a named one, which differs from the usual one of its kind in the classes."""
    return getattr(library, NAMED[name].config)(num_labels=CLASSES)


def _read_config(library: ModuleType, folder: Path, doing: str) -> Any:
    """The config in a folder.

    Raises:
        CheckpointError: it is none, or not that of a video classifier.
    """
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many types
        raise CheckpointError(
            f"{doing}: expected the config of a model of transformers in {str(folder / CONFIG)!r}, got none that this"
            f" version knows ({_first_line(error)}). Code from a repository is never run."
        ) from error
    kinds = library.AutoModelForVideoClassification._model_mapping
    if type(config) not in kinds:
        known = ", ".join(sorted(kind.model_type for kind in kinds))
        raise CheckpointError(
            f"{doing}: expected a video classifier ({known}) in {str(folder)!r}, got the model type"
            f" {config.model_type!r}."
        )
    return config


def _read_folder(folder: Path | None, doing: str) -> Weights:
    """The weights in a folder, which may be in several files.

    Raises:
        CheckpointError: there are none as safetensors, or they are damaged.
    """
    assert folder is not None  # of what has no other file of weights
    if (folder / SHARDS).is_file():
        files = sorted(set(json.loads((folder / SHARDS).read_text("utf-8"))["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    state: dict[str, Tensor] = {}
    for file in files:
        path = folder / Path(file).name
        if not path.is_file():
            others = sorted(other.name for other in folder.glob("*.bin"))
            raise CheckpointError(
                f"{doing}: expected {path.name} in {str(folder)!r}, which has {', '.join(others) or 'no weights'}."
                " Other files may hold code and are not opened: save it again by save_pretrained, with safetensors."
            )
        state |= read(path).state
    return Weights(state, None, folder)


def _filled(kind: Any, config: Any, weights: Weights, doing: str) -> nn.Module:
    """The network with its weights, of which none may be missing or of another shape; tensors may
    have the names that older versions of the library gave them.

    Raises:
        CheckpointError: they are not those of the network.
    """
    try:
        network, told = kind.from_pretrained(
            None, config=config, state_dict=dict(weights.state), output_loading_info=True
        )
    except Exception as error:  # of many types
        raise CheckpointError(
            f"{doing}: the weights {str(weights.path)!r} are not those of its {CONFIG} ({_first_line(error)})."
        ) from error
    if missing := sorted(told["missing_keys"]):
        untaught = " It has not learned to classify: fine-tune it first." if _classifier_alone(missing) else ""
        raise CheckpointError(
            f"{doing}: expected all weights of the network in {str(weights.path)!r}, but {len(missing)} are missing"
            f" (such as {', '.join(missing[:2])}).{untaught}"
        )
    made: nn.Module = network
    return made


def _classifier_alone(missing: list[str]) -> bool:
    return all(key.startswith(("classifier.", "fc_norm.")) for key in missing)


def _preparation(config: Any, folder: Path | None, name: str) -> tuple[ClipSpec, dict[str, Any]]:
    """The spec of the clips, and mean and std for `Victim`."""
    if folder is None:
        known = NAMED[name]
        mean, std = (value if isinstance(value, tuple) else (value,) * 3 for value in (known.mean, known.std))
        return default_spec(name), {"mean": mean, "std": std}
    said = _processor(folder, name)
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None) or 16
    size = _size(getattr(config, "image_size", None) or getattr(config, "crop_size", SIZE))
    crops = said.get("do_center_crop", True)
    resized, cropped = said.get("size", size), _size(said.get("crop_size", size)) if crops else size
    spec = _spec(frames, cropped, None, stride_of(config.model_type, frames))
    if not said.get("do_resize", True):
        pass
    elif isinstance(resized, Mapping) and "shortest_edge" not in resized and _size(resized) == cropped:
        spec = spec.changed({"fit": "squash"})  # height and width, whatever the aspect
    else:
        spec = spec.changed({"short_side": min(_size(resized))})
    # The processor makes (255 factor x - offset - mean) / std of the values x of a clip.
    rescales, normalises = said.get("do_rescale", True), said.get("do_normalize", True)
    factor = 255 * said.get("rescale_factor", 1 / 255) if rescales else 255.0
    offset = float(rescales and said.get("offset", config.model_type == "vivit"))
    means = said.get("image_mean", (0.5,) * 3) if normalises else (0.0,) * 3
    stds = said.get("image_std", (0.5,) * 3) if normalises else (1.0,) * 3
    return spec, {"mean": [(offset + m) / factor for m in means], "std": [s / factor for s in stds]}


def _processor(folder: Path, name: str) -> dict[str, Any]:
    """What a folder says of how clips are prepared.

    Warns:
        UserWarning: it says nothing.
    """
    for file in PROCESSORS:
        if (folder / file).is_file():
            said = json.loads((folder / file).read_text("utf-8"))
            return said.get("video_processor") or said.get("image_processor") or said  # type: ignore[no-any-return]
    warnings.warn(
        f"The victim {name!r} has no preprocessor_config.json in {str(folder)!r}: a mean and a std of 0.5 are assumed."
        " Save its image processor there, or Victim(model, mean=..., std=...) yourself.",
        UserWarning,
        stacklevel=5,  # of load_victim's caller
    )
    return {"offset": False}


def _size(said: Any) -> tuple[int, int]:
    """Height and width, however they are written."""
    if isinstance(said, Mapping):
        edge = said.get("shortest_edge")
        return int(said.get("height", edge)), int(said.get("width", edge))
    return (int(said), int(said)) if isinstance(said, int | float) else (int(said[0]), int(said[1]))


def _spec(frames: int, size: tuple[int, int], short_side: int | None, stride: int) -> ClipSpec:
    return ClipSpec(
        frames=frames, size=size, short_side=short_side, sampling="stride", stride=stride, antialias=True, short="hold"
    )


def _check_clips(config: Any, spec: ClipSpec, doing: str) -> None:
    """Raises a `ValueError` where the position encoding is not made for such clips."""
    if config.model_type not in ("videomae", "vivit"):
        return
    wanted = config.num_frames, _size(config.image_size)
    if (spec.frames, spec.size) != wanted:
        raise ValueError(
            f"{doing}: its position encoding is made for {wanted[0]} frames of {wanted[1]} px, got a spec of"
            f" {spec.frames} frames of {spec.size} px. Give it those, or take another victim."
        )


def _labels(config: Any) -> dict[int, str] | None:
    """The names of the classes; None where the config has none but LABEL_0, LABEL_1, ..."""
    names: dict[int, str] = config.id2label
    return None if all(name == f"LABEL_{index}" for index, name in names.items()) else names


@contextlib.contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """Takes away the library's progress bar and its report of what is missing, which is ours."""
    logging: Any = library.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")

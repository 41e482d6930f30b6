"""What the networks of a Keras recipe for UCF-50 have in common, which many tutorials train.

UCF-50's classes and clips are among those of UCF-101, and the clips may have been in the training
split: the networks are victims that are right and sure, not measures of accuracy.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.shapes import check_shape
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, Weights, class_names, title


class Network(nn.Module):
    """A network whose classifier is made for clips of one shape.

    Args:
        frames: how many; None: any number.
        size: height and width in px.
    """

    def __init__(self, frames: int | None, size: int) -> None:
        super().__init__()
        self.frames = frames
        self.size = size


def card(name: str, description: str, paper: str, parameters: int, file: WeightFile) -> Card:
    """What is known of such a victim."""
    five = name.endswith("_5")
    repository = "JohnPPinto/UCF50_human_activity_recognition_tensorflow" if five else "Dkrishnavamsi/HAC"
    commit = "07c4f36" if five else "3374f33"
    return Card(
        description=description,
        paper=paper,
        classes=f"{name.rpartition('_')[2]} of UCF-50",
        parameters=parameters,
        weights=file,
        source=f"github.com/{repository}, commit {commit}, a Keras file: vidmarl convert {name.split('_')[0]}",
        licence="MIT" if five else "none stated",
    )


def spec(size: int) -> ClipSpec:
    """How the recipe cuts its clips: 20 frames, the first one and every `n // 20`-th after it, made
    square without regard to their aspect."""
    return ClipSpec(frames=20, size=(size, size), fit="squash", sampling="steps", antialias=False)


def victim(
    name: str, model: Network, found: Weights | None, wanted: ClipSpec, usual: ClipSpec, **options: Any
) -> Victim:
    """A victim of such a network; a weight file for clips of another shape changes its usual spec.

    Args:
        name: of the victim.
        model: its network.
        found: what the network was filled with; None for an untrained one.
        wanted: the spec that was asked for.
        usual: the spec of the name.
        options: of `Victim`.

    Raises:
        ValueError: the network cannot take clips as asked for.
    """
    own = usual.changed({"size": model.size, "frames": model.frames or wanted.frames})
    if wanted == usual:
        wanted = own
    check_shape(name, wanted, own)
    return Victim(
        model,
        spec=wanted,
        channels="bgr",
        labels=class_names(model, found),
        name=title(name, found),
        **options,
    )

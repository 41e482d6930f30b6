"""A victim and clips to try things on, for notebooks and first steps."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float
from torch import Tensor

from vidmarl.data import UCF101
from vidmarl.data.paths import data_root
from vidmarl.data.synthetic import make_clips, split_seed
from vidmarl.data.video import load_clips
from vidmarl.demo import victim_training
from vidmarl.distortions import Distortion
from vidmarl.distortions.gaussian_noise import GaussianNoise
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.victims import load_victim
from vidmarl.victims.demo import default_path
from vidmarl.victims.victim import Victim

SHOWN = ("BenchPress", "Bowling", "PlayingFlute", "PoleVault", "SoccerPenalty", "Swing")
"""Classes of UCF-101, of which the first clips are taken."""


@dataclasses.dataclass(frozen=True)
class Example:
    """What there is to try things on.

    Attributes:
        victim: a classifier.
        clips: float32[6 3 t h w] in [0, 1].
        grid: tubelets that suit them.
        noise: Gaussian noise that fools the victim on most of them, and that people see.
    """

    victim: Victim
    clips: Float[Tensor, "6 3 t h w"]
    grid: TubeletGrid
    noise: Distortion

    def training_clips(self, count: int) -> Float[Tensor, "_ 3 t h w"]:
        """Other clips, for agents to learn on: `count` of them, or as many as there are."""
        if self.victim.name == "demo":
            return make_clips(count, split_seed(0, "train"))[0]
        return load_clips(UCF101(exclude=SHOWN, max_clips=count).paths, self.victim)


def example() -> Example:
    """MoViNet-A0 and clips of UCF-101 where the data folder has them, else the victim of the demo
    and clips that are drawn. That victim is trained in about a minute, the first time only."""
    if (data_root() / "clips" / "ucf101").is_dir() and any((data_root() / "weights").glob("movinet_a0*")):
        victim = load_victim("movinet_a0", spec={"frames": 8, "size": 112})
        clips = load_clips(UCF101(classes=SHOWN).paths[: len(SHOWN)], victim)
        return Example(victim, clips, TubeletGrid(1, 16, 16), GaussianNoise(std=0.1))
    if not default_path().is_file():
        victim_training.train()
    clips, _ = make_clips(len(SHOWN), split_seed(0, "test"))
    return Example(load_victim("demo"), clips, TubeletGrid(1, 8, 8), GaussianNoise(std=0.2))

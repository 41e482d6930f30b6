"""UCF-101 clips under the names of Kinetics-600, for victims that were trained on that.

Twenty-nine classes of UCF-101 have one class of Kinetics-600 each that says the same. What several
classes of Kinetics say in part ("Biking") is left out, so that an answer is right or wrong.

    vidmarl audit --victim movinet_a0 --data examples/ucf101_as_kinetics.py:UCF101AsKinetics
"""

from __future__ import annotations

from vidmarl.data.base import ClipFile, ClipSource
from vidmarl.data.ucf101 import UCF101

NAMES = {
    "BabyCrawling": "crawling baby",
    "BaseballPitch": "catching or throwing baseball",
    "BenchPress": "bench pressing",
    "BlowDryHair": "blowdrying hair",
    "BodyWeightSquats": "squat",
    "Bowling": "bowling",
    "BoxingPunchingBag": "punching bag",
    "BoxingSpeedBag": "punching bag",
    "BreastStroke": "swimming breast stroke",
    "BrushingTeeth": "brushing teeth",
    "CricketBowling": "playing cricket",
    "CricketShot": "playing cricket",
    "FrontCrawl": "swimming front crawl",
    "Haircut": "getting a haircut",
    "HighJump": "high jump",
    "PizzaTossing": "making pizza",
    "PlayingCello": "playing cello",
    "PlayingFlute": "playing flute",
    "PoleVault": "pole vault",
    "Punch": "punching person (boxing)",
    "RopeClimbing": "climbing a rope",
    "SalsaSpin": "salsa dancing",
    "ShavingBeard": "trimming or shaving beard",
    "Skijet": "jetskiing",
    "SoccerJuggling": "juggling soccer ball",
    "Swing": "swinging on something",
    "ThrowDiscus": "throwing discus",
    "VolleyballSpiking": "playing volleyball",
    "WritingOnBoard": "writing",
}


class UCF101AsKinetics(ClipSource):
    """The UCF-101 videos of these classes, labelled as Kinetics-600 calls them.

    Args:
        root: the folder of UCF-101; None: `clips/ucf101` in the data folder.
        max_clips: at most so many videos, spread evenly over the classes.
    """

    def __init__(self, root: str | None = None, max_clips: int | None = None) -> None:
        ucf101 = UCF101(root)
        here = [name for name in NAMES if name in set(ucf101.classes)]
        files = UCF101(root, classes=here, max_clips=max_clips)
        classes = sorted(set(NAMES.values()))
        renamed = [
            ClipFile(file.path, classes.index(NAMES[files.classes[file.label]]), file.name)
            for file in files
            if file.label is not None
        ]
        super().__init__(renamed, classes)

"""Several views of one video, over which a classifier's probabilities are averaged: the test
protocol of the literature (10 clips by 3 crops for Kinetics, in Feichtenhofer et al., ICCV 2019).
"""

from __future__ import annotations

from typing import NamedTuple

from vidmarl.data.spec import ClipSpec


class Views(NamedTuple):
    """How many views of a video there are: `clips` x `crops`.

    Attributes:
        clips: windows in time, spread evenly from the earliest to the latest; one is centred.
            With sampling "uniform", each takes other frames of the whole video.
        crops: windows in space, spread evenly along the axis that the centre crop cuts; one is
            centred.
    """

    clips: int = 1
    crops: int = 1

    def places(self, spec: ClipSpec) -> list[tuple[float | None, float]]:
        """Of each view where it lies in time (an `offset`, see `Timeline.sample`) and along the
        axis that is cropped (0 to 1).

        Raises:
            ValueError: there are less than one, or several crops where nothing is cropped.
        """
        if min(self) < 1:
            raise ValueError(f"Views of a video: expected at least one clip and one crop, got {tuple(self)}.")
        if self.crops > 1 and spec.fit != "crop":
            raise ValueError(
                f"Views of a video: {self.crops} crops are asked for, and the spec's fit={spec.fit!r} crops nothing."
                ' Set crops to 1, or ClipSpec(fit="crop").'
            )
        times: list[float | None]
        if self.clips == 1:
            times = [None]
        elif spec.sampling == "uniform":
            times = [(i + 0.5) / self.clips for i in range(self.clips)]
        else:
            times = [i / (self.clips - 1) for i in range(self.clips)]
        crops = [0.5] if self.crops == 1 else [i / (self.crops - 1) for i in range(self.crops)]
        return [(time, crop) for time in times for crop in crops]

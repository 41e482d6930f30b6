"""V-BAD: directions from an image model, rectified by the victim."""

from __future__ import annotations

from typing import Any

from vidmarl.attacks.search.gradient_estimation import NESAttack, nes, over_patches, random_start
from vidmarl.attacks.search.image_prior import Prior, as_prior
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels, Search
from vidmarl.utils.kinds import check_least


class VBAD(NESAttack):
    """Tentative directions per frame, rectified by one weight per patch (Jiang et al., ACM MM 2019,
    arXiv 1904.05181).

    Each iteration makes a tentative direction for every pixel, asks `samples` probes for the
    gradient with respect to one weight per patch and frame (`nes`), and steps along the direction,
    each patch with the sign of its gradient. The iterate itself is one query more. The step goes
    from `step` to `smallest_step`, halved when `patience` margins have gained nothing.

    What differs from the paper and its public code: the loss is the margin of the goal rather than
    the log-probability of one class, and the targeted attack descends it from the clip itself,
    where the paper starts at a video of the target class and shrinks the ball. Success is looked
    for in 8 bits. The directions come from "random" by default, the paper's own control; with
    "efficientnet_lite0" they come from an ImageNet model, as the paper wants it, with another
    network than its ResNet-50 and DenseNets. Passes through that model are no queries, and the
    settings of a result say that they were made.

    Args:
        prior: where the directions come from: "random", "efficientnet_lite0" (needs the extra
            `vidmarl[priors]`; one forward and one backward pass per frame and iteration), or a
            function, see `image_prior.Prior`.
        patches: the rows and columns of patches in a frame.
    """

    prior: str | Prior = "random"
    patches: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("VBAD", patches=(self.patches, 1))
        self._prior_name, self._prior = as_prior(self.prior)

    def params(self) -> dict[str, Any]:
        return super().params() | {"prior": self._prior_name}

    def search(self, clip: ClipView) -> Search:
        pixels, rng = clip.pixels, clip.rng
        t, h, w = pixels.shape[1:]
        step = self.step_size()
        iterate = self.project(random_start(pixels, self.epsilon, rng), pixels)
        while True:
            response = yield Pixels(iterate[None])
            if response.success:
                return
            size = step.after(float(response.margin))
            tentative = self._prior(iterate, rng)
            slope = yield from nes(
                lambda weights, x=iterate, d=tentative: x + over_patches(weights, h, w) * d,  # type: ignore[misc]
                (t, min(self.patches, h), min(self.patches, w)),
                self.samples,
                self.sigma,
                rng,
                pixels.device,
            )
            iterate = self.project(iterate - size * over_patches(slope.sign(), h, w) * tentative, pixels)

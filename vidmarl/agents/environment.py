"""The agents' environment for training: an episode is one step, in which whole orders are played.

Of each clip some orders of its tubelets are played, and sets of the first 1, 2, 4, ... of each are
asked about until one fools: unlike the blocks of an attack (`vidmarl.agents.order`), this tells in
a handful of queries what an order is worth.
"""

from __future__ import annotations

from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from vidmarl.agents.features import CHANNELS
from vidmarl.agents.observation import STATE, look
from vidmarl.agents.order import Order
from vidmarl.agents.tubelets import lengths, random_signs
from vidmarl.queries.session import Session

MOST_SETS = 32
"""More sets than an order of any length has, each being twice the one before."""


class OrderEnv(EnvBase):  # type: ignore[misc]  # torchrl has no types
    """Orders of the tubelets of the clips of a session, as a TorchRL environment.

    Observations are those of `vidmarl.agents.observation`, of n clips. An action is int64[n o k]:
    of each clip o orders of all its tubelets. The reward is float[n o 1]: by how much smaller than
    the full distortion the success was that each order has led to, in natural logarithms; 0 where
    it failed. Beside it the step tells "size" float[n o], the L2 norm of the success or of the full
    distortion, "fooled" bool[n o], and "asked" int64[n o], how many of the first tubelets the last
    set had.

    Of an episode nothing is kept but the source of signs: what is known of a clip is in its
    TensorDict. Nothing is known of it but its clean prediction, and nothing is minimized.

    Args:
        session: the attack on a batch of clips, with budget for all orders; it answers the queries
            and counts them.
        orders: of each clip.
        classes: see `vidmarl.agents.observation.look`.
        longest: frames that a tubelet lasts at most.
    """

    batch_locked = True

    def __init__(self, session: Session, orders: int, classes: int = 0, longest: int = 1) -> None:
        n, device = len(session), session.renderer.clips.device
        super().__init__(device=device, batch_size=[n])
        self.session, self.classes = session, classes
        self.signs = torch.Generator()
        t, y, x = session.renderer.coarse_shape
        tubelets = t * y * x * lengths(t, longest)

        def real(*shape: int) -> Unbounded:
            return Unbounded((n, *shape), device=device)

        self.observation_spec = Composite(
            features=real(CHANNELS, t, y, x),
            state=real(len(STATE) + classes),
            known=Composite(energy=real(t, y, x), clean_margin=real(), shape=(n,)),
            size=real(orders),
            fooled=Binary(shape=(n, orders), device=device, dtype=torch.bool),
            asked=Unbounded((n, orders), device=device, dtype=torch.int64),
            shape=(n,),
        )
        self.action_spec = Categorical(tubelets, shape=(n, orders, tubelets), device=device)
        self.reward_spec = real(orders, 1)
        self.done_spec = Binary(shape=(n, 1), device=device, dtype=torch.bool)

    def _set_seed(self, seed: int | None) -> None:
        self.signs.manual_seed(int(seed or 0))

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        nothing = {name: self.observation_spec[name].zero() for name in ("size", "fooled", "asked")}
        return self._first.clone().update(nothing)

    @cached_property
    def _first(self) -> TensorDict:
        """What is seen before the first query; a collector resets more often than it plays."""
        rows = torch.arange(len(self.session), device=self.device)
        with torch.autocast(rows.device.type, enabled=False):  # observations do not depend on the precision
            return look(self.session, rows, self.classes)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action, session = tensordict["action"], self.session
        n, count, tubelets = action.shape
        shape, low = session.renderer.coarse_shape, session.renderer.min_strength
        signs = random_signs(torch.rand(n, count, tubelets, generator=self.signs), low)
        flat = rearrange(action.cpu(), "n o k -> (n o) k"), rearrange(signs, "n o k -> (n o) k")
        orders = [
            Order(own, its_signs, torch.zeros(shape), alternate=low < 0) for own, its_signs in zip(*flat, strict=True)
        ]
        rows = torch.arange(n, device=self.device).repeat_interleave(count)
        with torch.autocast(rows.device.type, enabled=False):
            grown = _grow(session, rows, orders)
        size, fooled, asked = (rearrange(each, "(n o) -> n o", o=count) for each in grown)
        full = session.full_l2[:, None]
        reward = (full.clamp_min(1e-3) / size.clamp_min(1e-3)).log()[..., None]
        after = tensordict.select(*self.observation_spec.keys(True, True))
        done = torch.ones(n, 1, dtype=torch.bool, device=self.device)
        return after.update({"size": size, "fooled": fooled, "asked": asked, "reward": reward, "done": done})


def _grow(
    session: Session, rows: Int64[Tensor, " m"], orders: list[Order]
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"], Int64[Tensor, " m"]]:
    """Asks about ever larger sets of each order until one fools its clip or touches all of it: the
    norm of the success or of the full distortion, whether the last set has fooled, and how many
    tubelets it had. Clips that need no attack cost nothing."""
    size, fooled = session.full_l2[rows].clone(), torch.zeros_like(rows, dtype=torch.bool)
    asked, most = torch.zeros_like(rows), len(orders[0].tubelets)
    left, count = session.active[rows].nonzero().flatten().cpu(), 1
    while len(left):
        sets = torch.stack([orders[i].first(count) for i in left.tolist()]).to(rows.device)
        response = session.query(sets, rows[left])
        asked[left], fooled[left] = min(count, most), response.success
        size[left] = torch.where(response.success, response.l2, size[left])
        covered = (sets != 0).flatten(1).all(1)
        # an action of tubelets that are not all different ends without having touched everything
        left, count = left[~(response.success | covered | (count >= most)).cpu()], 2 * count
    return size, fooled, asked

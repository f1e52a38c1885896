"""Fair error-bound scaling of soft Dice, as the authors' code does it and as their text means it.

Both forms start from the Dice losses L_g of the groups in a batch, in which the sums of soft Dice run over all images of a
group. The paper (Tian et al., ICLR 2024, arXiv:2311.02189) says that a group with a larger loss is a hard case and should
be learnt more. Its released code weighs the *probabilities* of a group by w_g = tanh((min L / L_g)^gamma): the hardest group
has the smallest weight, and scaled Dice has a smaller gradient there. We keep both forms, under names that say which is which.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from equipoise.engine.errors import UserError
from equipoise.engine.methods.base import Method
from equipoise.engine.update import losses
from equipoise.engine.update.task import TaskKind

_NEAR = 1e-12  # a loss below it is that of a perfect group


class _Scaling(Method):
    """What both forms share: ``pretrain_steps`` updates under ERM, then Dice of the batch as a function of its groups.

    A form has a function ``dice`` of the sums of every group and, last, of the images of unknown group, [groups + 1, k, 3].
    """

    def phase(self, step: int) -> str:
        """``erm`` for ``pretrain_steps``, then ``all``."""
        return "erm" if step < self.config.method.pretrain_steps else "all"

    def adapt(self, task: "TaskKind", phase: str) -> "TaskKind":
        """The task with Dice of groups.

        Raises:
          UserError: for a task without Dice.
        """
        if not hasattr(task, "dice"):
            raise UserError(
                f"--config.method.name={self.config.method.name} scales soft Dice: it needs --config.task.kind=segmentation"
            )
        if not self.config.task.dice_weight:
            raise UserError(
                f"--config.method.name={self.config.method.name} scales soft Dice, which --config.task.dice_weight=0 leaves out"
            )
        if phase == "erm":
            return task
        return dataclasses.replace(task, dice=self.dice, num_groups=len(self.groups.levels))


def _is_present(sums: Float[Array, "groups k 3"]) -> Bool[Array, " groups"]:
    return sums[..., 2].sum(-1) > 0  # every pixel has one class


def group_weights(
    loss: Float[Array, " groups"], is_present: Bool[Array, " groups"], gamma: float, absent: str
) -> Float[Array, " groups"]:
    """``tanh((min L / L_g)^gamma)``.

    Args:
      loss: L_g, the sum of the group's soft Dice losses over the classes.
      is_present: whether the batch has images of the group.
      gamma: the exponent.
      absent: ``skip`` takes the minimum over the groups that are present. ``collapse``, as in the released code, counts
        an absent group's loss as 0, so that one absent group makes every weight 0.
    """
    counted = is_present if absent == "skip" else jnp.ones_like(is_present)
    loss = jnp.where(is_present, loss, 0.0)
    least = jnp.where(counted, loss, jnp.inf).min()
    ratio = jnp.where(loss > _NEAR, least / jnp.maximum(loss, _NEAR), jnp.where(is_present, 1.0, 0.0))
    return jnp.tanh(ratio**gamma)


class ReleasedFEBS(_Scaling):
    """Dice of the whole batch, each image's probabilities multiplied by its group's weight; weights have no gradient.

    Images of unknown group have the largest weight that a group can have, tanh(1); the released code counts them into the
    last group. ``absent=collapse`` does what the released code does with a group that a batch lacks.
    """

    def dice(self, sums: Float[Array, "slots k 3"]) -> Float[Array, ""]:
        """``mean_k 1 - (2 sum_g w_g I_gk + e) / (sum_g (w_g^2 P_gk + Y_gk) + e)``."""
        method, groups = self.config.method, sums[:-1]
        loss = losses.squared_dice(groups) * sums.shape[1]
        weights = group_weights(jax.lax.stop_gradient(loss), _is_present(groups), method.gamma, method.absent)
        scale = jnp.append(weights, jnp.tanh(jnp.ones((), weights.dtype)))[:, None]
        scaled = jnp.stack([scale * sums[..., 0], scale**2 * sums[..., 1], sums[..., 2]], axis=-1)
        return losses.squared_dice(scaled.sum(0))


class IntendedFEBS(_Scaling):
    """``sum_g (n_g / n) w_g D_g`` with ``w_g = (L_g / mean L)^gamma``: hard groups weigh more; weights have no gradient.

    n_g / n is the group's share of the batch's pixels, D_g the mean of its soft Dice losses over the classes, and mean L runs
    over the groups that the batch has. Images of unknown group take part only in cross-entropy.
    """

    def dice(self, sums: Float[Array, "slots k 3"]) -> Float[Array, ""]:
        """The weighted sum over groups; 0 where no image's group is known."""
        groups = sums[:-1]
        is_present = _is_present(groups)
        dice = jnp.where(is_present, losses.squared_dice(groups), 0.0)
        bound = jax.lax.stop_gradient(dice)
        mean = bound.sum() / jnp.maximum(is_present.sum(), 1)
        weights = (bound / jnp.maximum(mean, _NEAR)) ** self.config.method.gamma
        size = groups[..., 2].sum(-1)
        return (size * weights * dice).sum() / jnp.maximum(size.sum(), 1)

"""Operations on single images, and the text that chains them: ``"minmax|shift(voxels=2)|noise(sd=0.02)"``.

- ``intensity`` has operations on values, such as ``minmax`` and ``noise``; ``spatial`` has operations on places, such as ``flip``.
- ``deformation`` has displacements and velocity fields of volumes; ``masks`` writes masks and label maps as short JSON values.

An operation is a function of one image [*spatial, channel]; if its second parameter is called ``key``, it is random. Where an
image has a mask, spatial operations move both by the same key, and the others leave the mask as it is. A chain runs on the
device inside the compiled step, mapped over the batch with one key per example.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, Float, Integer, Key

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.transforms import intensity, spatial

_INTENSITY = (
    intensity.minmax,
    intensity.standardise,
    intensity.rescale,
    intensity.contrast,
    intensity.noise,
    intensity.gain,
    intensity.brightness,
    intensity.stretch,
    intensity.gamma,
)
_SPATIAL = (
    spatial.flip,
    spatial.shift,
    spatial.rot90,
    spatial.rotate,
    spatial.scale,
    spatial.crop,
    spatial.resize,
    spatial.transunet,
)
OPERATIONS = {f.__name__: f for f in (*_INTENSITY, *_SPATIAL)}


def is_random(operation: Callable) -> bool:
    """Whether an operation takes a key."""
    return "key" in inspect.signature(operation).parameters


def parse(text: str, *, allow_random: bool = True) -> list[tuple[Callable, dict]]:
    """Reads ``"op|op(name=literal)"`` into operations with their keyword arguments.

    Raises:
      UserError: for an unknown operation or argument, for anything that is not a literal, and for a random
        operation where none is allowed.
    """
    steps = []
    for part in filter(None, (p.strip() for p in text.split("|"))):
        try:
            node = ast.parse(part, mode="eval").body
            call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
            name = call.func.id
            kwargs = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            if call.args or None in kwargs:
                raise ValueError
        except (SyntaxError, ValueError, AttributeError):
            raise UserError(f"transform {part!r} does not read as name or name(argument=value)") from None
        if name not in OPERATIONS:
            raise UserError(
                f"no transform {name!r}.{did_you_mean(name, OPERATIONS)} There are: {', '.join(OPERATIONS)}"
            )
        operation = OPERATIONS[name]
        known = [p for p in inspect.signature(operation).parameters if p not in ("image", "key")]
        for argument in kwargs:
            if argument not in known:
                raise UserError(
                    f"transform {name} has no argument {argument!r}; it has: {', '.join(known) or 'none'}"
                )
        if is_random(operation) and not allow_random:
            raise UserError(f"transform {name} is random: it belongs in data.augment, not in data.preprocess")
        steps.append((operation, kwargs))
    return steps


@dataclasses.dataclass(frozen=True)
class Chain:
    """Operations that follow one another, mapped over a batch.

    Attributes:
      steps: operations with their keyword arguments.
    """

    steps: Sequence[tuple[Callable, dict]]

    def __call__(self, images: Float[Array, "b ..."], keys: Key[Array, " b"] | None = None) -> Array:
        """The images after the chain; each has its own key."""
        return self.with_masks(images, None, keys)[0]

    def with_masks(
        self,
        images: Float[Array, "b *spatial c"],
        masks: Integer[Array, "b *spatial"] | None,
        keys: Key[Array, " b"] | None = None,
    ) -> tuple[Array, Array | None]:
        """(images, masks) after the chain; the masks are None where none are given."""

        def apply(image: Array, mask: Array | None, key: Array | None) -> tuple[Array, Array | None]:
            for index, (operation, kwargs) in enumerate(self.steps):
                move = functools.partial(operation, **kwargs)
                if is_random(operation):
                    move = functools.partial(move, key=jax.random.fold_in(key, index))
                image = move(image)
                if mask is not None and operation in _SPATIAL:
                    mask = move(mask[..., None])[..., 0]
            return image, mask

        return jax.vmap(apply)(images, masks, keys)


def chain(text: str, *, allow_random: bool = True) -> Chain:
    """The function of a batch of images, and of one key for each, that ``text`` stands for."""
    return Chain(tuple(parse(text, allow_random=allow_random)))

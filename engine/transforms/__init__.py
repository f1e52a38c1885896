"""Per-example operations, and the text that chains them: ``"minmax|shift(voxels=2)|noise(sd=0.02)"``.

An operation is a function of one image [*spatial, channel]; if its second parameter is called ``key`` it is random.
The chain runs on the accelerator inside the compiled step, mapped over the batch with one key per example.
"""

import ast
import inspect
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key

from engine.config import UserError, did_you_mean
from engine.transforms import intensity, spatial

OPERATIONS = {
    f.__name__: f
    for f in (
        intensity.minmax,
        intensity.standardise,
        intensity.rescale,
        intensity.contrast,
        intensity.noise,
        intensity.gain,
        spatial.flip,
        spatial.shift,
    )
}


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


def chain(
    text: str, *, allow_random: bool = True
) -> Callable[[Float[Array, "b ..."], Key[Array, " b"] | None], Array]:
    """The batched function of (images, per-example keys) that ``text`` stands for."""
    steps = parse(text, allow_random=allow_random)

    def one(image: Array, key: Array | None) -> Array:
        for index, (operation, kwargs) in enumerate(steps):
            if is_random(operation):
                image = operation(image, jax.random.fold_in(key, index), **kwargs)
            else:
                image = operation(image, **kwargs)
        return image

    def apply(images: Array, keys: Array | None = None) -> Array:
        return jax.vmap(one, in_axes=(0, None if keys is None else 0))(images, keys)

    return apply

"""Networks by name: each module here with a class ``Model`` is a network, and a user may name any class of their own.

- Classification and regression, in 2D and 3D: ``cnn``, ``sfcn``. Segmentation: ``unet``, ``transunet``, ``sam``.
- Parts: ``layers`` and ``resampling`` have the form that is fastest on each platform; ``transformer`` has attention, ``lora``
  adapters of low rank, ``sam_encoder`` and ``sam_decoder`` the parts of SAM.
- ``published``: parameters that others trained, to start from.

A model is a flax linen module. ``output, features = model.apply(variables, image, train=False, keys=None)`` takes images
[b, *spatial, c] in 2D or 3D. The output is [b, num_outputs], or [b, *reduced, num_outputs] for a segmentation, in at least
float32; features hold the output of every block by name. ``keys`` [b] are the examples' random keys, the only source of
randomness in training.
"""

import dataclasses
import importlib
import importlib.util
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from equipoise.engine.errors import UserError, did_you_mean

_GIVEN = ("parent", "name", "num_outputs", "dtype", "axis_name")  # fields that no configuration sets


def shipped() -> list[str]:
    """Names of the networks that come with the engine."""
    modules = pathlib.Path(__file__).parent.glob("*.py")
    return sorted(p.stem for p in modules if "\nclass Model(" in p.read_text())


def _find(name: str) -> type[nn.Module]:
    """The class that a name stands for."""
    module_name, _, class_name = name.partition(":")
    if not class_name:
        if name not in shipped():
            raise UserError(
                f"no model {name!r}.{did_you_mean(name, shipped())} "
                f"There are: {', '.join(shipped())}; your own is named 'my_pkg.module:Class'"
            )
        return importlib.import_module(f"equipoise.engine.models.{name}").Model
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UserError(f"model {name!r}: no module {module_name!r} can be imported from here") from error
    network = getattr(module, class_name, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        modules = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)]
        raise UserError(
            f"model {name!r}: {module_name} has no flax module {class_name!r}.{did_you_mean(class_name, modules)}"
        )
    return network


def build(
    name: str, *, num_outputs: int, dtype: Any = jnp.float32, axis_name: str | None = None, **args: Any
) -> nn.Module:
    """Makes a network.

    Args:
      name: ``"cnn"``, or ``"my_pkg.module:Class"`` for a class with the fields num_outputs, dtype and axis_name.
      num_outputs: logits, or regression targets, per image.
      dtype: the type of the computation; parameters are float32.
      axis_name: the mapped axis over which batch statistics are averaged, under ``pmap``.
      **args: the network's own fields.

    Raises:
      UserError: for a name or an argument that does not exist, with those that do.
    """
    network = _find(name)
    fields = [f.name for f in dataclasses.fields(network)]
    missing = [given for given in _GIVEN[2:] if given not in fields]
    if missing:
        raise UserError(f"model {name!r} lacks the field(s) {', '.join(missing)}: every model has them")
    arguments = [field for field in fields if field not in _GIVEN]
    for argument in args:
        if argument not in arguments:
            raise UserError(
                f"model {name!r} has no argument {argument!r}.{did_you_mean(argument, arguments)} "
                f"It has: {', '.join(arguments) or 'none'}"
            )
    args = {
        k: tuple(v) if isinstance(v, list) else v for k, v in args.items()
    }  # configurations read from JSON
    return network(num_outputs=num_outputs, dtype=jnp.dtype(dtype), axis_name=axis_name, **args)


def num_parameters(tree: Any) -> int:
    """How many numbers a tree of arrays holds; abstract shapes are enough."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

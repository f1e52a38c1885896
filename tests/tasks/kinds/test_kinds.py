"""Every kind of task has all of the protocol."""

import dataclasses
import importlib
import inspect
import typing

import pytest

from equipoise import tasks
from equipoise.engine.update.task import TaskKind


def members(protocol):
    methods = {name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}
    return methods, set(protocol.__annotations__)


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_every_kind_has_every_member_of_the_protocol(kind):
    made = typing.get_type_hints(importlib.import_module(f"equipoise.tasks.kinds.{kind}").make)["return"]
    methods, attributes = members(TaskKind)
    assert {"loss", "target", "warn"} <= methods and "needs_batch_sums" in attributes
    there = {field.name for field in dataclasses.fields(made)} | set(dir(made))
    assert not (methods | attributes) - there
    for name in methods:
        ours, wanted = (inspect.signature(getattr(where, name)).parameters for where in (made, TaskKind))
        assert list(ours) == list(wanted), f"{made.__name__}.{name}"

"""Task kinds: what a run can learn of an image, ``config.task.kind``.

Each module has a class with the members of :class:`equipoise.engine.update.task.TaskKind` and a function ``make(config, split)``;
:data:`equipoise.tasks.KINDS` lists them.
"""

"""The report on one table of predictions or one run.

``audit`` and ``evaluation`` make a :class:`~equipoise.engine.report.single.context.Context` from a table and from a run;
``contents`` puts the sections of the other modules in order and writes the files.
"""

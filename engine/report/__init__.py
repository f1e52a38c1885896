"""Fairness reports: one page, its figures, and the numbers behind them.

:func:`audit_table` audits a table of predictions and :func:`audit_run` an evaluated run; each returns a :class:`Context`, which
:func:`write_report` writes as files. :func:`compare_runs` compares many runs, such as methods by seeds; :func:`write_comparison`
writes what it returns. Each name is imported at its first use, so that ``import equipoise.engine.report`` takes no time.

The packages, from below to above: :mod:`~equipoise.engine.report.page` (sections, tables, numbers in words),
:mod:`~equipoise.engine.report.figures`, :mod:`~equipoise.engine.report.single` (one table or run),
:mod:`~equipoise.engine.report.many` (many runs).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

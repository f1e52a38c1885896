"""Cohorts as TFDS builders, a folder for each family of cohorts; and what a builder of your own is made of.

A cohort is a subclass of :class:`Cohort` that yields a :class:`Scan` for every image, reads one as :class:`Pixels` (or
raises :class:`UnreadableScan` with the reason) and says in a :class:`Schema` what its examples hold.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

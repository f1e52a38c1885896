"""Cohorts as TFDS builders, with a folder for each family of cohorts, and the parts of which you make your own builder.

A cohort is a subclass of :class:`Cohort`. It yields a :class:`Scan` for every image, reads one as :class:`Pixels` (or
raises :class:`UnreadableScan` with the reason), and says in a :class:`Schema` what its examples hold. The readers return
pixels; :func:`resample` and :func:`crop_or_pad_pixels` bring them onto another grid.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

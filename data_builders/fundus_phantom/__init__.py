"""Synthetic fundus images with the optic disc and cup, and with groups whose images are harder to segment.

``builder`` has the cohort, ``config`` its settings, ``design`` its subjects, ``render`` and ``vessels`` draw the images.
"""

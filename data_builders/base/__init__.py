"""The parts that all cohorts share.

``cohort`` has the base builder, ``schema`` describes what examples hold, ``report`` counts what was kept, ``splits``
assigns subjects to splits, ``readers`` read image files, ``cache`` keeps decoded scans on disk, ``settings`` checks
configurations, and ``catalogue`` lists the cohorts. :mod:`equipoise.data_builders` names what a builder of your own needs.
"""

"""What every cohort is made of: the base builder, its schema, splits, readers of files, and the catalogue of cohorts.

``cohort`` has the base builder, ``schema`` what examples hold, ``report`` the counts of a prepared cohort, ``splits`` the
assignment of subjects, ``readers`` the readers of image files, ``cache`` decoded scans on disk, ``settings`` the checks of
configurations, and ``catalogue`` the table of cohorts. :mod:`equipoise.data_builders` lists what a builder needs.
"""

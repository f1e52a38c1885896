"""SimBA: synthetic brain MRI with a disease, and with a bias that is planted on purpose.

``builder`` has the cohort, ``config`` its settings and scenarios. ``design`` and ``sites`` say who has what and is scanned
where; ``anatomy``, ``velocity``, ``fields``, ``pca`` and ``volume`` say how brains are deformed; ``render`` and ``scanner``
make the images. Importing ``config`` reads no data.
"""

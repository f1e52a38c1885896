"""SimBA: synthetic, controllable bias in brain MRI.

A deformation of one region is the "disease"; a deformation or a change of intensity elsewhere is a harmless "bias" that goes with
it. ``runs`` has the training runs (``--config=simba:near``) and ``study`` the whole study (``equipoise study --study=simba``).
``analysis`` is what a run's report gains: ``theory`` (what ideal classifiers would do), ``renderings`` (the same subjects with and
without the bias) and ``sites`` (errors by site). ``bias_outcomes`` and ``schedule_outcomes`` read the runs of the study;
``bias_page`` and ``schedule_page`` draw its page.
"""

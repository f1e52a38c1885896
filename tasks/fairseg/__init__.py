"""FairSeg: segmentation of the optic disc and cup that serves every group.

``runs`` has the training runs (``--config=fairseg:phantom``) and ``study`` the whole study (``equipoise study --study=fairseg``).
``analysis`` is what a run's report gains; ``summary`` reads the runs of the study and draws its page; ``gradients`` measures what
fair error-bound scaling (FEBS) does to the gradient of each group.
"""

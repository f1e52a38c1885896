"""What a trained model does inside: where it looks, what its features know, and where it is worst.

- ``probe_run`` probes every block of a run's network for labels and attributes, against chance, and writes what it finds to the run's
  folder (``probes``); ``linear_probe`` fits a single probe, and ``features`` writes the activations that it reads.
- ``group_maps`` averages saliency maps of a run by class and group (``saliency``); ``smooth_grad`` and ``gradient`` map one image
  (``gradients``); ``regions`` says how much of a map lies in each region of a label map.
- ``worst_cases`` finds the images with the worst masks, group by group.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

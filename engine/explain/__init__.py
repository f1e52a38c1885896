"""What a trained model does inside: where it looks, what its features know, and where it is worst.

=====================  ==================================================================================================
module                 what it is for
=====================  ==================================================================================================
``gradients``          gradients of a logit in the image: plain and SmoothGrad maps, and their means over groups of images
``saliency``           mean maps of a run, by class and group
``regions``            how much of a map lies in each region of a label map
``features``           activations of every block of a network, on disk
``linear_probe``       one probe: how well a block tells a label, against chance
``probes``             ``probe_run``: probes of every block of a run, written to its folder
``worst_cases``        the images with the worst masks, group by group
=====================  ==================================================================================================
"""

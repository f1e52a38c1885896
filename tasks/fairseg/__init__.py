"""FairSeg: segmentation of optic disc and cup that serves every group."""

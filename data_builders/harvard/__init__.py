"""Data sets of the Harvard Ophthalmology AI Lab, which share one form: an NPZ file per person.

``family`` has what they share, ``fairseg`` the cohort Harvard-FairSeg.
"""

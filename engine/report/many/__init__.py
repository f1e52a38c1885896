"""The report on many runs: methods by seeds.

``comparison`` scores and compares the runs; ``contents`` puts the sections in order and writes the files.
"""

"""Cohorts made of a user's own table with one row per image, without a builder of their own.

``builder`` has the cohort, ``config`` what the command line asks of it, ``text_table`` the table as text, ``schema_file``
the file that says how its columns are read, and ``images`` the form to which its images are brought.
"""

"""What studies share: a study is written from these parts.

==============  =====================================================================================================
module          what it is for
==============  =====================================================================================================
``options``     the options of a study, checked
``plan``        stages, jobs and phases: the commands that a study or a sweep runs
``grid``        a sweep: combinations of configuration fields as a plan
``gather``      reading a study's runs, and scores over seeds
``pages``       parts of a study's page, and writing it
``pairs``       the same subjects twice: decisions before and after, and their change
``sites``       errors by site, or by any attribute with many levels, against chance
``sites_page``  the same as a section of a report
==============  =====================================================================================================
"""

"""Reporting checklists at the end of a report: which items report and team answer, and which are not stated.

`claim`, `tripod` and `stard` are the three lists, in our own words; the numbers are those of the publications. `items`
decides how an item is answered, from the facts that the parts of a report declare and the `answers` of the team.
`appendix` is the part of the report. `model_section` and `dataset_section` state facts about training and data that
several items ask for.
"""

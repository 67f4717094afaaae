"""Logs: folders of partitions, each a row of files of lines, each line a record with an offset.

docs/log.md describes what lies on the disk. `layout` names it; `reading` and `writing` are one partition
each.
"""

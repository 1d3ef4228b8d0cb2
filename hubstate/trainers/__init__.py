"""Trainers of others, each by one line: a module each, which maps its hooks to events and decides nothing.

No module here imports its trainer before it is used, and none knows another; what they share is the `link`.
"""

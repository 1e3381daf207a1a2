"""Long work for people: one table of jobs and their items, with progress, stop and results.

A page or a command makes a job and the worker does it, a few items at a time. That process holds the job for a few
minutes at most, so another one goes on when it dies.
"""

"""Refreshes what is due, ahead of time: `./keap-connect worker`. Any number of them share one database.

due.py         what is due, taken up by one worker at a time, and the budget of calls that all of them share
crew.py        its threads: hands that call Keap, and one that stores what they bring
circuit.py     a pause for all accounts when Keap as a whole answers badly
heartbeat.py   what a worker says of itself, for the dashboard and the metrics
loop.py        the worker itself
"""

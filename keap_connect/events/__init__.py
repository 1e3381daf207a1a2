"""What happened, and who got which access token.

history.py   the kinds of events with their sentences, and the one function that writes events
search.py    the one query that reads them
deleting.py  deletes events: old ones, or those of an erased account
hand_outs.py writes one line before each token leaves, and has the file of these lines
"""

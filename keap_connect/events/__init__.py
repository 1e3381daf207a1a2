"""What happened, and which access tokens left.

history.py   the kinds of events with their sentences, and the one function that writes events
search.py    the one query that reads them
deleting.py  how they leave: pruned, or erased with their account
hand_outs.py one line for each token, written before it leaves; log_file.py is its file
"""

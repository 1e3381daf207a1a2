"""Who was handed which token: written down before the answer, counted per hour.

hand_outs.py  writes the line, or nothing is handed out
log_file.py   the file: opened once, written at once, followed when it is moved away
counters.py   counts in memory, and adds them up in the database every 5 seconds
"""

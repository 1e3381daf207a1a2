"""Who was handed which token: written down before the answer.

hand_outs.py  writes the line, or nothing is handed out
log_file.py   the file: opened once, written at once, followed when it is moved away
"""

"""Durations in seconds. A call's deadline (keap/transport.py) is half the lease, so no lease is renewed."""

LEASE_SECONDS = 60.0
# After an attempt without a usable answer, nobody presents the token again within this time.
UNKNOWN_OUTCOME_WAIT_SECONDS = 120.0
# When nobody knows how an attempt ended, its process may be stopped with the new pair in hand. While that process has
# its recovery file locked, callers wait this long; the worker, for whom the token is never urgent, a day.
LOCKED_WAIT_SECONDS = 900.0
UNASKED_WAIT_SECONDS = 86_400.0
# While a new pair waits in a recovery file that cannot be stored, the hold of its account is written this often, since
# an older version presents the used token UNKNOWN_OUTCOME_WAIT_SECONDS after the last time.
HOLD_SECONDS = 20.0
# While its access token lasts longer than this, a refresh token with an unknown outcome waits as if nobody needed it.
RUNS_SHORT_SECONDS = 1800.0
# Keap sometimes refuses a token that is valid, so a refusal counts only when it comes twice, this far apart.
CONFIRM_WAIT_SECONDS = 60.0
# The database's clock jumped when it moved by more than this against our boot clock.
JUMP_SECONDS = 5.0
# Times further ahead on the database's clock were written before that clock was set back, or before a reboot.
LONGEST_LEASE_AHEAD = LEASE_SECONDS + JUMP_SECONDS
LONGEST_BLOCK_AHEAD = LOCKED_WAIT_SECONDS + JUMP_SECONDS
# A new pair that is not committed within this time after the answer is written to its recovery file.
COMMIT_SECONDS = 0.7
REFRESH_WHEN_LEFT_SECONDS = 60.0
PATIENCE_SECONDS = 10.0
COME_BACK_WHEN_PAUSED_SECONDS = 300  # a person has to act first
LONGEST_VALIDITY_SECONDS = 3600  # that a program may ask for
LOOK_EVERY_SECONDS = 0.15
MOST_AT_ONCE = 8  # callers in one process that hold a thread to refresh, or to wait for somebody else's refresh

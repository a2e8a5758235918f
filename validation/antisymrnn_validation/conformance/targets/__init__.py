"""What can be judged: functions, programs, and their declared conventions."""

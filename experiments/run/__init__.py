"""The parts of every run: its configuration, the train loop, what it writes and reports."""

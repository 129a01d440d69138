"""What every run is made of: its configuration, the train loop, what it writes and reports."""

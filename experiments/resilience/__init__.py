"""What a run lives through: several processes, signals, damaged records, full disks."""

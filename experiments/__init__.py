"""Programs: flags, then one call."""

"""Bad and hostile input: every reader of outside files ends well or with one clear sentence."""

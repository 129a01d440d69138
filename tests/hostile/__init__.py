"""Bad and hostile input: every reader of untrusted files succeeds, or fails with one clear sentence."""

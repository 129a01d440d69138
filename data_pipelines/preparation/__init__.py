"""From a publisher's files to a prepared data set."""

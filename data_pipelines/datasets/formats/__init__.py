"""Forms of files that several data sets read."""

"""File formats that several data sets read."""

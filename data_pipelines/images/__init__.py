"""Image files: headers and limits, decoding, resizing, canvases."""

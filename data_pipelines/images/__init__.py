"""Image files: headers and size limits, decoding, resizing, canvases."""

"""Files and text, on disk or in a bucket: complete or absent."""

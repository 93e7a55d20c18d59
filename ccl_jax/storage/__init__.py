"""Files and text, on disk or in a bucket: files are complete or absent."""

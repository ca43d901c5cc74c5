"""Objects in S3 or a directory, behind one protocol."""

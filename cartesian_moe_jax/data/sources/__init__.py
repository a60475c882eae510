"""Sources of documents: local files, and tensorflow-datasets."""

"""Device meshes, layouts as values, and what chips can do."""

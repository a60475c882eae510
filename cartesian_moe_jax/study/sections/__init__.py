"""The parts of the report, one a file, each left out where nothing was measured for it."""

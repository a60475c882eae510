"""The Cartesian Product Layer and what it is made of."""

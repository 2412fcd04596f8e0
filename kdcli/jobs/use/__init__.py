"""A trained network in use: loaded, asked about picture files, and taken elsewhere."""

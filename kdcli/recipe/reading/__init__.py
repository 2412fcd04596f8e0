"""From TOML text and flags to the values of a recipe, each with its origin."""

"""Output of commands: screens, progress, files, the JSON envelope, errors."""

"""What commands write: screens, progress, files, the JSON envelope, errors."""

"""What every layer may use: configuration, names, errors, files, progress, precision, keys."""

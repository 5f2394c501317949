"""What every algorithm of the package shares."""

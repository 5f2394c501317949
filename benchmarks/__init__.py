"""Measurements of speed, memory and learning, run by hand; never part of the tests or of the installed package."""

"""Immutable bytes that the service itself holds."""

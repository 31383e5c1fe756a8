"""Kernels, one folder an op; every op has the same files."""

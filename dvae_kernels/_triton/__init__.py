"""Functions and launchers that Triton kernels share."""

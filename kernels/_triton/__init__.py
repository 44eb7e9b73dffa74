"""What several operations' Triton kernels share: windows on maps, matrix products over pixels, and how they start."""

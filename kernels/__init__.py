"""GPU kernels: Triton (`<op>.py`) and CUDA C++ (`<op>.cu`), loaded by fastrecon.registry when first needed."""

"""One program for each library that is measured, which needs that library and NumPy, but not gpuconv."""

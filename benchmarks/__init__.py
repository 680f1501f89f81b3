"""Measurements of gpuconv beside other libraries; see README.md."""

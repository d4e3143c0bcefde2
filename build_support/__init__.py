"""Builds the native libraries; runs only while the package is built and is not part of it."""

"""Situations that people reported in public, each as a test of its kind: what is right, in every path that meets it."""

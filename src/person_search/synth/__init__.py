"""Synthetic scenes: procedural streets, cameras and people, written out as a person-search dataset."""

"""Backbones by name: a network cut in two, a trunk that reads the whole picture and a top that reads each RoI."""

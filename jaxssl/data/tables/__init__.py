"""Labelled data as tables: read from files and the hub, divided into splits, written."""

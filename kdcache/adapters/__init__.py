"""Stored answers in the trainers of other libraries: a module for each, which imports that library.

They stand on `CachedDataset.numbered()`, whose targets are pairs of a label and an item number, and on `KnowledgeLoss`,
which finds the answers by that number. A loop that takes a data set and a loss, as with Accelerate, needs no adapter.
"""

"""Proof that a cache is whole, and that data, view, teacher and libraries are those it was made with."""

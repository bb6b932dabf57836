"""Whole models in TVM: optimise, extract tasks, assemble, validate, export."""

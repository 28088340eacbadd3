"""Finished work into rows, tables, figures and pages, and what MLflow is told of it; no Ray."""

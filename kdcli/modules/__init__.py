"""Bricks that several methods share, such as regressors and memory banks. What only one method
needs stays in its file.
"""

"""The vocabulary that methods, models, data, engine and analysis share. Empty on purpose: importing
it costs nothing.
"""

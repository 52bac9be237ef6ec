"""Audit of a data set: python -m common.tools.audit DIR"""

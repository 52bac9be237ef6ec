"""Drawn people in the competition's layout: python -m common.tools.demo DIR"""

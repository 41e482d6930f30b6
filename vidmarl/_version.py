"""The version of vidmarl, for the package, its results and its build."""

__version__ = "0.2.0"

"""The checker of types at run time that `make runtime` puts around every function of vidmarl."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers say

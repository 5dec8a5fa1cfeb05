"""A whole site under virtual time: the product's own cores and shells, run from a seed."""
